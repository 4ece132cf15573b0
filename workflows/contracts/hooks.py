"""Hooks: functions that look at tool calls before they are made, and at results before the model sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from workflows.contracts.people import Ask
from workflows.contracts.signatures import Signature, closest, place, read_signature, wrong
from workflows.contracts.tools import ToolContext

F = TypeVar("F", bound=Callable[..., Any])

EVERY_TOOL: Final = "*"
HOOK_TIMEOUT_S: Final = 10.0
HOOK_TIMEOUT_MAX_S: Final = 20.0
"""Both together fit into what an attempt may take beside the tool itself (`policies.TOOL_MARGIN_S`)."""
_GIVEN: Final[Mapping[str, tuple[str, ...]]] = {"before": ("arguments", "tool"), "after": ("arguments", "result", "tool")}


@dataclass(frozen=True, slots=True)
class Deny:
    """What a hook gives to stop a call, or to withhold a result; the model is told the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook function with what it asks for. `before(...)` and `after(...)` make it, and leave the function as it is."""

    when: Literal["before", "after"]
    tool: str
    """The tool it is for, or `*` for every one."""
    function: Callable[..., Any]
    signature: Signature
    timeout_s: float

    @property
    def place(self) -> str:
        """Where it is written, for error messages."""
        return place(self.function)

    def is_for(self, tool: str) -> bool:
        """Whether it looks at this tool's calls."""
        return self.tool in (EVERY_TOOL, tool)


_MARK: Final = "__holdfast_hooks__"


def before(tool: str, /, *, timeout_s: float = HOOK_TIMEOUT_S) -> Callable[[F], F]:
    """Look at each call of a tool, or of every one (`"*"`), before it is made; nothing is entered into the effect ledger yet.

    The function may take `arguments` (a dict, as the tool reads them), `tool` (its name), a `ToolContext` and what `@provide` functions
    give. It gives None (go on), `Deny(reason)` or `Ask(reason, policy=…)`. One that raises, or takes longer than `timeout_s`, parks the
    run.

    Raises:
        DefinitionError: the function asks for something else.
    """
    return _mark("before", tool, timeout_s, sys._getframe(1).f_locals)


def after(tool: str, /, *, timeout_s: float = HOOK_TIMEOUT_S) -> Callable[[F], F]:
    """Look at the result of each call of a tool that went well, before the model sees it; what the tool did is done.

    The function may take `result` (the text that the model would see) beside what `before` functions may. It gives None (show it),
    `Deny(reason)` (withhold it) or `Ask(reason, policy=…)`. One that raises, or takes longer than `timeout_s`, parks the run.

    Raises:
        DefinitionError: the function asks for something else.
    """
    return _mark("after", tool, timeout_s, sys._getframe(1).f_locals)


def hooks_of(function: Any) -> tuple[Hook, ...]:
    """The hooks that a function was made by the decorators."""
    found = getattr(function, "__dict__", {}).get(_MARK, ())
    return tuple(found) if isinstance(found, tuple) else ()


def _mark(when: Literal["before", "after"], tool: str, timeout_s: float, local_names: Mapping[str, Any]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        if not isinstance(tool, str):
            raise wrong(function, when, "needs the name of a tool", f'Write @{when}("refund"), or @{when}("*") for every tool')
        if not 0 < timeout_s <= HOOK_TIMEOUT_MAX_S:
            raise wrong(function, "timeout_s", f"must be above 0 and at most {HOOK_TIMEOUT_MAX_S:g}", f"It was given as {timeout_s!r:.80}")
        signature = read_signature(function, ToolContext, local_names)
        for name in signature.visible:
            if name not in _GIVEN[when]:
                raise wrong(function, when, f"cannot give `{name}`", closest(name, _GIVEN[when]))
        hook = Hook(when, tool, function, signature, timeout_s)
        setattr(function, _MARK, (*hooks_of(function), hook))
        return function

    return decorate


__all__ = ["EVERY_TOOL", "Ask", "Deny", "Hook", "after", "before", "hooks_of"]
