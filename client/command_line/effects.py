"""`holdfast effects`: what tools did, and a person's word on what nobody knows."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson, person
from client.command_line.terminal import put, put_json, put_table, say, short_clock
from workflows.contracts.errors import HoldfastError, InvalidInputError

if TYPE_CHECKING:
    from client.effects import EffectReport
    from client.orchestrator import Orchestrator
    from state.effect_lists import ListedEffect


def effects(
    what: Literal["list", "show", "rule"] = "list",
    ref: str | None = None,
    ruling: Literal["done", "not-done"] | None = None,
    /,
    *,
    unknown: bool = False,
    run: str | None = None,
    tool: str | None = None,
    tenant: str | None = None,
    result: str = "",
    reason: str = "",
    by: str | None = None,
    limit: int = 50,
    json: AsJson = False,
) -> int:
    """Tell what tools did, or say what became of an effect whose outcome nobody knows.

    Args:
        what: `list`; `show` one with what people ruled; or `rule` on one of unknown outcome.
        ref: The effect's key, or RUN:STEP.
        ruling: For `rule`: `done`, with --result, or `not-done`.
        unknown: Only those whose outcome a person must find out.
        run: Those of this run and its sub-runs.
        tool: Those of this tool; NAME.undo for the undoing of one.
        tenant: Those of this tenant.
        result: What an effect that was done gave: told to whoever asks for it next.
        reason: How you found out.
        by: Who says so; you, if left out.
        limit: How many at most.
    """

    async def done() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            if what == "list":
                found = await holdfast.effects.list(run_id=run, tool=tool, tenant=tenant, unknown=unknown, limit=limit)
                return _list(found, json, unknown=unknown)
            if ref is None:
                raise InvalidInputError(f"Say which effect: `holdfast effects {what} RUN:STEP`, or its key.")
            if what == "show":
                return _show(await holdfast.effects.show(ref, tool=tool, tenant=tenant), json)
            if ruling is None:
                raise InvalidInputError(f"Say what you found out: `holdfast effects rule {ref} done --result TEXT`, or not-done.")
            said: Literal["done", "not_done"] = "done" if ruling == "done" else "not_done"
            given = {"result": result, "reason": reason, "tool": tool, "tenant": tenant, "by": by or person()}
            ruled = await holdfast.effects.rule(ref, said, **given)  # type: ignore[arg-type]  # texts, all of them
            _show(ruled, json)
            await _hint(holdfast, ruled.effect)
        return ExitCode.OK

    return asyncio.run(done())


async def _hint(holdfast: Orchestrator, effect: ListedEffect) -> None:
    """Say so when the run still waits: a ruling in the ledger moves no run."""
    from workflows.contracts.runs import RunStatus

    try:
        status = await (await holdfast.get(effect.run_id)).status()
    except HoldfastError:
        return
    if status is RunStatus.PARKED:
        say(f"Run {effect.run_id} is still parked: `holdfast redrive {effect.run_id}` lets it go on with what you ruled.")


def _list(found: tuple[ListedEffect, ...], json: bool, *, unknown: bool) -> int:
    if json:
        put_json([asdict(each) for each in found])
        return ExitCode.OK
    rows = [
        [
            each.tool,
            each.key,
            _state(each),
            each.step_id,
            str(each.attempts),
            short_clock(each.started_at),
            each.reason or each.result or "",
        ]
        for each in found
    ]
    put_table(["tool", "key", "state", "step", "attempts", "started", "said"], rows)
    if not found:
        say("No effect has an unknown outcome." if unknown else "No effect fits.")
    elif unknown:
        say("Find out what became of each: `holdfast effects rule STEP done --result TEXT`, or not-done. Parked runs: `holdfast redrive`.")
    return ExitCode.OK


def _show(report: EffectReport, json: bool) -> int:
    if json:
        put_json(asdict(report))
        return ExitCode.OK
    effect = report.effect
    lines: list[tuple[str, Any]] = [
        ("tool", effect.tool),
        ("key", effect.key),
        ("state", _state(effect)),
        ("step", effect.step_id),
        ("tenant", effect.tenant),
        ("attempts", effect.attempts),
        ("arguments", effect.arguments),
        ("result", effect.result),
        ("reason", effect.reason),
        ("can be undone", "yes" if effect.can_undo else "no"),
    ]
    for name, value in lines:
        if value not in (None, ""):
            put(f"{name:<14}{value}")
    for ruled in report.rulings:
        why = f": {ruled.reason}" if ruled.reason else ""
        put(f"{'ruled':<14}{ruled.ruling} by {ruled.ruled_by}, {short_clock(ruled.ruled_at)}{why}")
    return ExitCode.OK


def _state(effect: ListedEffect) -> str:
    return effect.state if effect.generation == 1 else f"{effect.state}, time {effect.generation}"
