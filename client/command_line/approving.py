"""`holdfast approvals`, `approve`, `reject` and `audit`: what waits for people, deciding on it, and who decided what."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson, person
from client.command_line.ordering import By, order
from client.command_line.terminal import clock, put, put_json, put_table, say, seconds, short_clock
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.people import Filter
    from state.inbox import Decided, Waiting

Risk = Annotated[Literal["low", "medium", "high"] | None, Parameter(help="Only of this risk.")]
Agent = Annotated[str | None, Parameter(help="Only this agent's.")]
OfTenant = Annotated[str | None, Parameter(name="--tenant", help="Only this tenant's.")]
OfUser = Annotated[str | None, Parameter(name="--user", help="Only runs for this user.")]
OfTool = Annotated[str | None, Parameter(name="--tool", help="Only calls of this tool.")]
OlderThan = Annotated[str | None, Parameter(help="Only what has waited for so long, as in 30m, 2h or 1d.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def approvals(
    run: str | None = None,
    /,
    *,
    show: Annotated[str | None, Parameter(help="Tell all of this call of the run: arguments, reasoning, context.")] = None,
    agent: Agent = None,
    tenant: OfTenant = None,
    user: OfUser = None,
    tool: OfTool = None,
    who: Annotated[str | None, Parameter(help="Only what this person may decide.")] = None,
    risk: Risk = None,
    older_than: OlderThan = None,
    limit: int = 100,
    json: AsJson = False,
) -> int:
    """List what waits for a person, the oldest first; with --show tell all of one.

    Args:
        run: Only this run's.
        limit: How many at most.
    """
    chosen = _chosen(run=run, agent=agent, tenant=tenant, user=user, tool=tool, who=who, risk=risk, older_than=older_than)

    async def listed() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            if show is not None:
                if run is None:
                    raise InvalidInputError("Name the run too: `holdfast approvals RUN --show CALL`.")
                one = await holdfast.inbox.get(run, show)
                put_json(asdict(one)) if json else _put_one(one)
                return ExitCode.OK
            found = await holdfast.inbox.list(limit=limit, **chosen)
        put_json([asdict(each) for each in found]) if json else _put_list(found)
        return ExitCode.OK

    return asyncio.run(listed())


def approve(
    run: str | None = None,
    call: str | None = None,
    /,
    *,
    all: Annotated[bool, Parameter(negative="", help="All that is chosen by the filters below, over all runs.")] = False,  # noqa: A002
    agent: Agent = None,
    tenant: OfTenant = None,
    user: OfUser = None,
    tool: OfTool = None,
    risk: Risk = None,
    older_than: OlderThan = None,
    rate: Annotated[float, Parameter(help="With --all: how many a second at most.")] = 20.0,
    yes: Annotated[bool, Parameter(negative="", help="With --all: do not ask first.")] = False,
    reason: str = "",
    by: By = None,
    json: AsJson = False,
) -> int:
    """Say yes to a tool call that waits for a person; or, with --all, to many.

    Args:
        run: The run's id.
        call: The call's id; without it all calls of the run that wait.
        reason: Why, for the record.
    """
    chosen = _chosen(run=run, agent=agent, tenant=tenant, user=user, tool=tool, risk=risk, older_than=older_than)
    if not all:
        one = _one(run, chosen)
        return order(one, "approve", lambda found, who: found.approve(call, reason=reason, by=who), by, json)
    return _bulk("approve", chosen, call, {"by": by or person(), "reason": reason, "rate_per_s": rate}, yes, json)


def reject(
    run: str | None = None,
    call: str | None = None,
    /,
    *,
    all: Annotated[bool, Parameter(negative="", help="All that is chosen by the filters below, over all runs.")] = False,  # noqa: A002
    agent: Agent = None,
    tenant: OfTenant = None,
    user: OfUser = None,
    tool: OfTool = None,
    risk: Risk = None,
    older_than: OlderThan = None,
    rate: Annotated[float, Parameter(help="With --all: how many a second at most.")] = 20.0,
    yes: Annotated[bool, Parameter(negative="", help="With --all: do not ask first.")] = False,
    reason: str = "",
    by: By = None,
    json: AsJson = False,
) -> int:
    """Say no to a tool call that waits for a person, and why; or, with --all, to many.

    Args:
        run: The run's id.
        call: The call's id; without it all calls of the run that wait.
        reason: Why; the model reads it.
    """
    chosen = _chosen(run=run, agent=agent, tenant=tenant, user=user, tool=tool, risk=risk, older_than=older_than)
    if not all:
        one = _one(run, chosen)
        return order(one, "reject", lambda found, who: found.reject(call, reason=reason, by=who), by, json)
    return _bulk("reject", chosen, call, {"by": by or person(), "reason": reason, "rate_per_s": rate}, yes, json)


def audit(run: str, /, *, json: AsJson = False) -> int:
    """Tell who ordered what of a run, when, from where, on which version of the arguments, and what became of it.

    Args:
        run: The run's id.
    """

    async def told() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.inbox.decisions((await holdfast.get(run)).id)
        put_json([asdict(each) for each in found]) if json else _put_audit(found)
        return ExitCode.OK

    return asyncio.run(told())


def _bulk(order: Literal["approve", "reject"], chosen: Filter, call: str | None, options: dict[str, Any], yes: bool, json: bool) -> int:
    if call is not None:
        raise InvalidInputError("--all is for every call that the filters choose: leave the call out.")

    async def decided() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            many = await holdfast.inbox.count(**chosen)
            if many == 0:
                say("Nothing waits that the filters choose.")
            elif not yes and not _confirmed(f"{order.capitalize()} {many} waiting calls?"):
                say("Nothing was decided.")
                return ExitCode.FAILED
            done = await holdfast.inbox.decide(order, **options, **chosen)
        for line in done.refused:
            say(line)
        if json:
            put_json(asdict(done))
        else:
            put(f"{done.held} held, {done.sent} sent and not acknowledged yet, {len(done.refused)} refused")
        return ExitCode.FAILED if done.refused else ExitCode.OK

    return asyncio.run(decided())


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{question} Nobody is here to ask: add --yes.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _one(run: str | None, chosen: Filter) -> str:
    if run is None:
        raise InvalidInputError("Say which run, or --all: `holdfast approvals` lists what waits.")
    if set(chosen) - {"run"}:
        raise InvalidInputError(f"{', '.join(sorted(set(chosen) - {'run'}))}: filters are for --all; with a run name the call.")
    return run


def _chosen(*, older_than: str | None, **given: str | None) -> Filter:
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if older_than is not None:
        number, unit = older_than[:-1], older_than[-1:]
        if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
            raise InvalidInputError(f"--older-than must be a number with s, m, h or d, as in 2h; it is {older_than}.")
        chosen["older_than"] = timedelta(seconds=float(number) * _UNITS[unit])
    return cast("Filter", chosen)


def _put_list(found: Sequence[Waiting]) -> None:
    rows = [
        [
            each.run_id,
            each.call_id,
            each.agent,
            f"{each.tool} {each.arguments}",
            each.risk,
            ", ".join(each.allowed) or "anybody",
            f"{len(each.yes)} of {each.quorum}" if each.quorum > 1 else "",
            seconds(each.age_s),
            short_clock(each.until) if each.until else "",
        ]
        for each in found
    ]
    put_table(["run", "call", "agent", "what", "risk", "asked of", "yes", "waits for", "until"], rows)
    if not found:
        say("Nothing waits for a person.")


def _put_one(one: Waiting) -> None:
    wanted = {"approval": "a yes or no to", "question": "an answer to", "result": "a yes to the result of"}[one.kind]
    lines = [f"Run {one.run_id} of {one.agent} waits for {wanted} {one.tool}, call {one.call_id}."]
    if one.state != "open":
        lines[0] = f"Run {one.run_id}, call {one.call_id} of {one.tool}: {one.state}, {one.outcome or ''} by {one.settled_by or 'nobody'}."
    told = {
        "arguments": f"{one.arguments} (version {one.version})",
        "the model said": one.why,
        "the user said": one.context,
        "result": one.result or "",
        "because": one.reason,
        "risk": one.risk,
        "asked of": ", ".join(one.named) + (f": {', '.join(one.allowed)}" if one.allowed != one.named else "") or "anybody",
        "yes so far": f"{len(one.yes)} of {one.quorum}: {', '.join(one.yes) or 'nobody'}" if one.quorum > 1 else "",
        "not by": one.user if one.not_by_user and one.user else "",
        "since": f"{clock(one.since)}, {seconds(one.age_s)}",
        "until": clock(one.until),
        "reminders": str(one.reminders or ""),
    }
    put("\n".join(lines + [f"{name}: {value}" for name, value in told.items() if value]))


def _put_audit(found: Sequence[Decided]) -> None:
    rows = [
        [
            short_clock(each.at),
            each.order,
            each.by,
            each.channel,
            each.call_id or "",
            str(each.version or ""),
            each.outcome,
            each.reason,
        ]
        for each in found
    ]
    put_table(["at", "order", "by", "from", "call", "version", "outcome", "what"], rows)
    if not found:
        say("Nobody has ordered anything of this run.")
