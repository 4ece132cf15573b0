"""`holdfast breakers`: how the circuit breakers stand, and holding one open or closed by hand."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson, person
from client.command_line.terminal import put_json, put_table, say, short_clock
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from state.breakers import Breaker


def breakers(
    what: Literal["list", "open", "close", "auto"] = "list",
    scope: str | None = None,
    /,
    *,
    reason: str = "",
    by: str | None = None,
    json: AsJson = False,
) -> int:
    """Tell how the breakers stand, or hold one open or closed until it is said otherwise.

    Args:
        what: `list`; `open` (no call goes through), `close` (all do), or `auto` (what workers count decides again).
        scope: provider:NAME, model:PROVIDER:MODEL, key:PROVIDER/KEY, or key:PROVIDER/KEY:MODEL.
        reason: Why; needed for `open`.
        by: Who says so; you, if left out.
    """

    async def done() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            if what == "list":
                found = await holdfast.breakers.list()
                return _list([each for each in found if scope is None or each.scope == scope], json)
            if scope is None:
                raise InvalidInputError(f"Say which breaker: `holdfast breakers {what} SCOPE`; `holdfast breakers` lists them.")
            who = by or person()
            match what:
                case "open":
                    now = await holdfast.breakers.open(scope, reason=reason, by=who)
                case "close":
                    now = await holdfast.breakers.close(scope, reason=reason, by=who)
                case _:
                    now = await holdfast.breakers.auto(scope, by=who)
        return _tell(now, json)

    return asyncio.run(done())


def _list(found: list[Breaker], json: bool) -> int:
    if json:
        put_json([asdict(each) for each in found])
        return ExitCode.OK
    from client.models import told

    rows = [
        [
            each.scope,
            told(each),
            str(each.consecutive),
            f"{each.failures} of {each.calls}",
            str(each.openings),
            str(each.probes),
            short_clock(each.updated_at),
        ]
        for each in found
    ]
    put_table(["breaker", "status", "in a row", "failed lately", "openings", "probes", "changed"], rows)
    if not found:
        say("No breaker ever had trouble: all are closed.")
    return ExitCode.OK


def _tell(breaker: Breaker, json: bool) -> int:
    from client.models import told

    put_json(asdict(breaker)) if json else say(f"{breaker.scope}: {told(breaker)}")
    return ExitCode.OK
