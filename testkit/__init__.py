"""What tests of agents import: `from testkit import ScriptedModel, tool_call`. The pytest plugin brings the fixtures by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from activities.inference.providers.scripted import ScriptedAnswer, ScriptedModel, tool_call
    from testkit.environment import AgentEnvironment

_HOME_OF = {
    "AgentEnvironment": "testkit.environment",
    "ScriptedAnswer": "activities.inference.providers.scripted",
    "ScriptedModel": "activities.inference.providers.scripted",
    "tool_call": "activities.inference.providers.scripted",
}

__all__ = ["AgentEnvironment", "ScriptedAnswer", "ScriptedModel", "tool_call"]


def __getattr__(name: str) -> Any:
    """Load a public name from its home: the plugin is in every pytest session, and must not slow those that use none of it."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'testkit' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value
