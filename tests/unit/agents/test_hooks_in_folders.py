"""Hooks are found in a folder's modules, and held against the tools that there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from activities.agents.folders import Catalog
from tests.unit.agents.conftest import AGENT, HTTP_TOOL, TOOLS, Write

GUARDS = """
    from holdfast import Deny, after, before

    from .tools import refund


    @before("refund")
    def no_sundays(arguments: dict) -> Deny | None:
        return None


    @after("*")
    @before("track")
    async def look(arguments: dict) -> None:
        return None
"""


def test_hooks_are_found_in_order_for_python_and_http_tools(write: Write, loaded: Callable[..., Catalog]) -> None:
    write("support.yaml", AGENT)
    write("tools.py", TOOLS)
    write("track.yaml", HTTP_TOOL)
    write("guards.py", GUARDS)
    write("more.py", "from .guards import no_sundays")
    found = [(hook.function.__name__, hook.when, hook.tool) for hook in loaded().hooks]
    assert found == [("no_sundays", "before", "refund"), ("look", "before", "track"), ("look", "after", "*")]


def test_a_hook_for_a_tool_that_is_not_there_is_refused(write: Write, refused: Callable[..., str]) -> None:
    write("tools.py", TOOLS)
    write("guards.py", GUARDS.replace('before("refund")', 'before("refnd")'))
    refused("guards.py", 6, r"no_sundays: before: there is no tool 'refnd'\. Did you mean `refund`\?")


def test_what_a_hook_wants_must_be_provided(write: Write, refused: Callable[..., str]) -> None:
    write("tools.py", TOOLS)
    write(
        "guards.py",
        GUARDS.replace("(arguments: dict) -> Deny", "(rules: Provided[set]) -> Deny").replace("import Deny", "import Deny, Provided"),
    )
    refused("guards.py", 6, r"no_sundays: parameters: wants a set, which nobody provides\. Write an @provide function")


def test_an_http_tool_cannot_be_undone(write: Write, refused: Callable[..., str], tmp_path: Path) -> None:
    write("track.yaml", f"{HTTP_TOOL}\nundo: true")
    refused("track.yaml", 15, r"field undo: an HTTP tool cannot be undone yet\. Write the tool in Python")
