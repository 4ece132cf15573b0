"""Workers that do not agree on what an agent is; definitions that change while a run is under way."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import AGENTS, House, until
from workflows.contracts.runs import RunStatus

AGENT = """name: {name}
model: smart
instructions: You do exactly what you are asked.
tools: [{tool}]
{more}
"""
TOOL = '''from holdfast import tool


@tool
def {name}(number: int) -> str:
    """Say a number."""
    return f"{name} says {{number}}"
'''


def folder(path: Path, agent: str, tool: str, more: str = "") -> Path:
    """An agents folder with one agent and one tool."""
    path.mkdir(exist_ok=True)
    (path / f"{agent}.yaml").write_text(AGENT.format(name=agent, tool=tool, more=more), encoding="utf-8")
    (path / "tools.py").write_text(TOOL.format(name=tool), encoding="utf-8")
    (path / "models.yaml").write_text((AGENTS / "models.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return path


async def test_a_call_waits_for_a_worker_that_has_the_tool(house: House, tmp_path: Path) -> None:
    await house.start_worker([folder(tmp_path / "a", "speaker", "say_here")])
    without = await house.start_worker([folder(tmp_path / "b", "other", "say_there")])

    runs = [await house.holdfast.start("speaker", 'call say_here {"number": 5}') for _ in range(12)]

    for run in runs:
        assert await run.result(timeout_s=60) == "Done: say_here says 5"
    assert "no_such_tool_here" in without.plan.log.read_text(encoding="utf-8"), "the worker without the tool was never asked"


async def test_workers_with_two_contents_of_one_version_are_told(house: House, tmp_path: Path) -> None:
    await house.start_worker([folder(tmp_path / "a", "twofold", "say_here")])
    second = await house.start_worker([folder(tmp_path / "b", "twofold", "say_there")])

    found = await house.rows("select * from definition_conflicts where name = 'twofold'")

    assert len(found) == 1
    assert "definition.differs" in second.plan.log.read_text(encoding="utf-8")


async def test_a_run_ends_with_the_definition_it_began_with(house: House, tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "steady", "say_here", more="approvals: {say_here: true}")
    await house.start_worker([path])
    old = await house.holdfast.start("steady", 'call say_here {"number": 1}')
    await until(lambda: _waits(old), "the first run waits for a person")

    (path / "steady.yaml").write_text(AGENT.format(name="steady", tool="say_here", more='version: "2"'), encoding="utf-8")
    await until(lambda: _version(house, "steady", "2"), "the new definition is current, without a restart")
    new = await house.holdfast.start("steady", 'call say_here {"number": 2}')

    assert await new.result(timeout_s=30) == "Done: say_here says 2"
    assert await old.status() is RunStatus.WAITING_APPROVAL
    await old.approve(by="ann")
    assert await old.result(timeout_s=30) == "Done: say_here says 1"


async def test_a_broken_edit_is_told_and_changes_nothing(house: House, tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "careful", "say_here")
    worker = await house.start_worker([path])
    (path / "careful.yaml").write_text("name: careful\nmodel: smart\ninstruction: typo\n", encoding="utf-8")

    async def refused() -> bool:
        return "agents.reload_refused" in worker.plan.log.read_text(encoding="utf-8")

    await until(refused, "the worker says that the edit is wrong")
    assert "Did you mean instructions" in worker.plan.log.read_text(encoding="utf-8")
    assert await house.holdfast.run("careful", 'call say_here {"number": 3}') == "Done: say_here says 3"


async def _waits(run: object) -> bool:
    return await run.status() is RunStatus.WAITING_APPROVAL  # type: ignore[attr-defined]


async def _version(house: House, name: str, version: str) -> bool:
    return any(agent.name == name and agent.version == version for agent in await house.holdfast.agents())
