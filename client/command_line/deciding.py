"""Commands by which people end a run or let it go on: `cancel`, `redrive`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.limit_options import changed_limits
from client.command_line.options import AsJson
from client.command_line.ordering import order
from client.command_line.terminal import put_json, say

if TYPE_CHECKING:
    from client.run import Run
    from workflows.contracts.people import Verdict


def cancel(run: str, /, *, json: AsJson = False) -> int:
    """Ask a run to stop; a running tool or model call is told within seconds, sub-runs with it.

    Args:
        run: The run's id.
    """
    return _order(run, lambda found: found.cancel(), {"ordered": "cancel"}, f"Run {run} was asked to stop.", json)


def redrive(
    run: str,
    /,
    *,
    action: Literal["retry", "skip", "not_done", "abort"] = "retry",
    result: str = "",
    model: str | None = None,
    limit: Annotated[list[str] | None, Parameter(negative="")] = None,
    undo: Annotated[bool, Parameter(negative="")] = False,
    reason: str = "",
    by: str | None = None,
    json: AsJson = False,
) -> int:
    """Let a parked run go on from the step it is parked at, or all such steps; `holdfast dead-letters` can do more.

    Args:
        run: The run's id.
        action: Try the step again, skip it (a tool call only) with --result, say that it was not_done, or end the run.
        result: With skip: what the model is told that the tool gave.
        model: Another model or tier for the rest of the run.
        limit: A new limit, as in steps=100 or cost_usd=2.50 (many allowed); the others stay.
        undo: With abort: undo first what its tools did and can undo.
        reason: Why, for the record.
        by: Who says so; you, if left out.
    """
    limits = changed_limits(limit) if limit else None

    async def give(found: Run, who: str) -> Verdict:
        return await found.redrive(action=action, result=result, model=model, limits=limits, undo=undo, reason=reason, by=who)

    return order(run, action, give, by, json)


def _order(run: str, give: Callable[[Run], Awaitable[None]], told_json: dict[str, Any], told: str, as_json: bool) -> int:
    async def given() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            await give(await holdfast.get(run))
        put_json({"run_id": run, **told_json}) if as_json else say(told)
        return ExitCode.OK

    return asyncio.run(given())
