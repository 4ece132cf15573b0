"""Commands that only look: `runs`, `show`, `result`, `events`, `agents`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import clock, put, put_json, put_line, put_table, say, seconds, short_clock, usd

if TYPE_CHECKING:
    from client.events import RunEvent
    from client.visibility import RunSummary

Status = Literal["running", "waiting_approval", "parked", "completed", "failed", "cancelled", "terminated", "timed_out"]


def runs(
    *,
    status: Status | None = None,
    agent: str | None = None,
    tenant: str | None = None,
    user: str | None = None,
    sub_runs: Annotated[bool, Parameter(negative="")] = False,
    limit: int = 50,
    json: AsJson = False,
) -> int:
    """List runs, newest first.

    Args:
        status: Only runs that stand there.
        agent: Only this agent's.
        tenant: Only this tenant's.
        user: Only this user's.
        sub_runs: Also runs that other runs started.
        limit: How many at most.
    """

    async def listed() -> tuple[RunSummary, ...]:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            return await holdfast.list(status=status, agent=agent, tenant=tenant, user=user, sub_runs=sub_runs, limit=limit)

    found = asyncio.run(listed())
    if json:
        put_json([each.model_dump(mode="json") for each in found])
        return ExitCode.OK
    rows = [_row(each) for each in found]
    put_table(["id", "agent", "status", "user", "cost", "started", "took"], rows)
    for each in found:
        if each.origin:
            put(f"{each.id}: {each.origin}")
    return ExitCode.OK


def show(run: str, /, *, json: AsJson = False) -> int:
    """Tell all of one run: steps, tools, tokens, cost, links.

    Args:
        run: The run's id.
    """

    async def told() -> int:
        from client.command_line.connection import connected
        from client.command_line.report import put_report

        async with connected() as holdfast:
            report = await (await holdfast.get(run)).show()
        put_json(report) if json else put_report(report)
        return ExitCode.OK

    return asyncio.run(told())


def result(run: str, /, *, timeout: float | None = None, json: AsJson = False) -> int:
    """Wait for a run's answer and print it. A run that waits for a person is not waited for: the command ends with 4.

    Args:
        run: The run's id.
        timeout: Wait at most this many seconds.
    """

    async def waited() -> int:
        from client.command_line.connection import connected
        from client.command_line.starting import wait_for

        async with connected() as holdfast:
            return await wait_for(await holdfast.get(run), timeout_s=timeout, as_json=json)

    return asyncio.run(waited())


def events(run: str, /, *, after: str | None = None, json: AsJson = False) -> int:
    """Follow a run: a line for every step and change of status until it ends.

    Args:
        run: The run's id.
        after: Leave out what came up to this event: the `cursor` of one that --json printed.
        json: Print each event as one line of JSON.
    """

    async def followed() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            async for event in (await holdfast.get(run)).events(after):
                put_line(event) if json else put(_event_line(event))
        return ExitCode.OK

    return asyncio.run(followed())


def agents(*, json: AsJson = False) -> int:
    """List the agents that can be run, as workers have registered them."""

    async def listed() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.agents()
        if json:
            put_json([each.model_dump(mode="json") | {"definition_hash": each.content_hash()} for each in found])
            return ExitCode.OK
        rows = [
            [each.name, each.version, each.model, ", ".join([*(t.name for t in each.tools), *each.agents, *each.handoffs])]
            for each in found
        ]
        put_table(["agent", "version", "model", "tools"], rows)
        if not found:
            say("No agent is registered yet: start a worker with `holdfast worker --agents FOLDER`.")
        return ExitCode.OK

    return asyncio.run(listed())


def _row(run: RunSummary) -> list[str]:
    return [run.id, run.agent, _status(run), run.user or "", usd(run.cost_usd), short_clock(run.started_at), _took(run)]


def _status(run: RunSummary) -> str:
    words = run.status.value.replace("_", " ")
    return f"{words}: {run.failure_class.value}" if run.failure_class else words


def _took(run: RunSummary) -> str:
    return seconds((run.ended_at - run.started_at).total_seconds()) if run.ended_at else ""


def _event_line(event: RunEvent) -> str:
    if event.kind == "status":
        why = f" ({event.failure_class.value})" if event.failure_class else ""
        return f"{clock(event.at)}  {event.status.value.replace('_', ' ')}{why}"
    step = event.step
    mark = " (simulated)" if step.simulated else ""
    return f"{clock(event.at)}  step {step.step}: {step.kind} {step.name}{mark}  {step.asked} {step.preview}".rstrip()
