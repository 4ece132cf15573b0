"""`holdfast cache`: what the response cache saved, what is in it, and throwing answers away."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import put_json, put_table, say, short_clock, usd

if TYPE_CHECKING:
    from client.cache import CacheReport
    from state.response_cache import CachedEntry


def cache(
    what: Literal["stats", "list", "invalidate"] = "stats",
    /,
    *,
    tag: Annotated[list[str] | None, Parameter(negative="")] = None,
    agent: str | None = None,
    tenant: str | None = None,
    key: str | None = None,
    everything: Annotated[bool, Parameter(name="--all", negative="")] = False,
    limit: int = 50,
    json: AsJson = False,
) -> int:
    """Tell what the response cache saved, list what is in it, or throw answers away.

    Args:
        what: `stats`, `list` or `invalidate`.
        tag: Only answers with this tag; many are allowed, one is enough.
        agent: Only this agent's.
        tenant: Only this tenant's.
        key: Only the answer with this key, as `list` shows it.
        everything: Throw all answers away.
        limit: How many are listed at most.
    """

    async def done() -> int:
        from client.command_line.connection import connected

        tags = tuple(tag or ())
        async with connected() as holdfast:
            if what == "stats":
                return _tell(await holdfast.cache.stats(), json)
            if what == "list":
                return _list(await holdfast.cache.list(agent=agent, tenant=tenant, tags=tags, limit=limit), json)
            gone = await holdfast.cache.invalidate(agent=agent, tenant=tenant, key=key, tags=tags, everything=everything)
        if json:
            put_json({"invalidated": gone})
        else:
            say(f"{gone} thrown away")
        return ExitCode.OK

    return asyncio.run(done())


def _tell(report: CacheReport, json: bool) -> int:
    if json:
        put_json(_plain(report))
        return ExitCode.OK
    rows = [[c.agent, *map(str, (c.exact, c.semantic, c.stale, c.missed)), usd(c.saved_usd), str(c.entries)] for c in report.agents]
    put_table(["agent", "exact", "semantic", "stale", "missed", "saved", "entries"], rows)
    for flight in report.flights:
        say(f"{flight.agent} asks a model since {short_clock(flight.since)} on {flight.worker} (key {flight.key})")
    return ExitCode.OK


def _list(entries: tuple[CachedEntry, ...], json: bool) -> int:
    if json:
        put_json([_plain(entry) for entry in entries])
        return ExitCode.OK
    rows = [
        [
            each.key,
            each.agent,
            each.tenant or "(all)",
            each.model + (" (simulated)" if each.simulated else ""),
            each.kind if each.similarity is None else f"{each.kind} {each.similarity:.3f} of {(each.origin or '')[:12]}",
            ", ".join(each.tags),
            str(each.hits),
            usd(each.cost_usd),
            short_clock(each.expires_at),
        ]
        for each in entries
    ]
    put_table(["key", "agent", "tenant", "model", "found", "tags", "hits", "cost", "until"], rows)
    return ExitCode.OK


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)
