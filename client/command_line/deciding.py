"""Commands by which people end a run or let it go on: `cancel`, `redrive`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.limit_options import changed_limits
from client.command_line.options import AsJson, person
from client.command_line.terminal import put_json, say
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.run import Run


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
    action: Literal["retry", "skip", "abort"] = "retry",
    result: str = "",
    model: str | None = None,
    limit: Annotated[list[str] | None, Parameter(negative="")] = None,
    by: str | None = None,
    json: AsJson = False,
) -> int:
    """Let a parked run go on from the step it is parked at.

    Args:
        run: The run's id.
        action: Try the step again, skip it (a tool call only) with --result, or end the run.
        result: With skip: what the model is told that the tool gave.
        model: Another model or tier for the rest of the run.
        limit: A new limit, as in steps=100 or cost_usd=2.50 (many allowed); the others stay.
        by: Who says so; you, if left out.
    """
    changed = changed_limits(limit or [])

    async def order(found: Run) -> None:
        options: dict[str, Any] = {"limits": await _changed_limits(found, changed)} if changed else {}
        await found.redrive(action=action, result=result, model=model, by=by or person(), **options)

    return _order(run, order, {"ordered": "redrive", "action": action}, f"Run {run} was told to {action}.", json)


def _order(run: str, order: Callable[[Run], Awaitable[None]], told_json: dict[str, Any], told: str, as_json: bool) -> int:
    async def given() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            await order(await holdfast.get(run))
        put_json({"run_id": run, **told_json}) if as_json else say(told)
        return ExitCode.OK

    return asyncio.run(given())


async def _changed_limits(found: Run, changed: dict[str, str]) -> Any:
    from pydantic import ValidationError

    from workflows.contracts.agents import Limits

    try:
        return Limits.model_validate((await found.view()).limits.model_dump() | changed)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidInputError(f"--limit {problem['loc'][0]}: {problem['msg']}.") from error
