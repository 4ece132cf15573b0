"""The command that tells what model calls cost."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import put, put_json, put_table, usd
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.costs import CostReport
    from state.costs import CostLine

By = Literal["agent", "user", "tenant", "key", "model", "provider", "tier", "run", "step", "attempt", "day", "hour"]
UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def costs(
    *,
    by: Annotated[list[By] | None, Parameter(negative="", consume_multiple=True)] = None,
    since: str = "24h",
    until: str | None = None,
    agent: str | None = None,
    tenant: str | None = None,
    user: str | None = None,
    model: str | None = None,
    run: str | None = None,
    json: AsJson = False,
) -> int:
    """Tell what model calls cost, and what today will.

    Args:
        by: What the costs are told by; many are allowed. By agent where nothing is said.
        since: A time back from now, as in 90m, 24h, 7d; or a date or moment, in UTC where it names no zone.
        until: A date or moment; calls that began then or later do not count.
        agent: Only this agent's.
        tenant: Only this tenant's.
        user: Only this user's.
        model: Only this model's, with or without its provider.
        run: Only this run's, with its sub-runs.
    """
    begin, end = _since(since), None if until is None else _moment("until", until)

    async def told() -> CostReport:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            return await holdfast.costs(
                *(by or ("agent",)), since=begin, until=end, agent=agent, tenant=tenant, user=user, model=model, run=run
            )

    found = asyncio.run(told())
    _put_as_json(found) if json else _put(found)
    return ExitCode.OK


def _put_as_json(found: CostReport) -> None:
    guess = found.forecast
    put_json(
        {
            "lines": [_plain(found.by, each) for each in found.lines],
            "total": _plain((), found.total),
            "forecast": asdict(guess) | {"day_usd": guess.day_usd, "made_by": guess.made_by},
        }
    )


def _put(found: CostReport) -> None:
    guess = found.forecast
    head = [*found.by, "calls", "attempts", "input", "cached", "output", "cost", "unknown", "saved"]
    rows = [[*each.by, *_figures(each)] for each in found.lines]
    if len(rows) != 1:
        rows.append(["total", *[""] * (len(found.by) - 1), *_figures(found.total)])
    put_table(head, rows)
    put("")
    put(f"Forecast of today (UTC): {usd(guess.day_usd)}: {usd(guess.spent_usd)} so far. Made of {guess.made_by}.")


def _figures(line: CostLine) -> list[str]:
    cost = usd(line.cost_usd)
    if line.simulated_usd:
        cost += " (simulated)" if line.simulated_usd == line.cost_usd else f" ({usd(line.simulated_usd)} simulated)"
    counts = (line.calls, line.attempts, line.input_tokens, line.cached_tokens, line.output_tokens)
    return [*(f"{count:,}" for count in counts), cost, *(usd(each) if each else "" for each in (line.unknown_usd, line.saved_usd))]


def _plain(by: tuple[str, ...], line: CostLine) -> dict[str, Any]:
    figures = asdict(line)
    return {"by": dict(zip(by, figures.pop("by"), strict=True))} | figures


def _since(text: str) -> datetime | timedelta:
    back = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    return timedelta(seconds=int(back[1]) * UNITS_S[back[2]]) if back else _moment("since", text)


def _moment(field: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        example = "24h, 7d, 2026-03-01" if field == "since" else "2026-03-01"
        raise InvalidInputError(f"--{field} {text} is no time: write it as in {example} or 2026-03-01T12:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
