"""The command that tells how far budgets are used, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import clock, put, put_json, put_table, seconds, usd

if TYPE_CHECKING:
    from client.budgets import Budget


def budgets(*, json: AsJson = False) -> int:
    """Tell every budget in its present period: spent, reserved, limit; whether its soft line is passed; and who waits for it."""

    async def told() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.budgets()
        if json:
            listed = [
                asdict(each) | {"share": each.share, "used": [asdict(used) | {"share": used.share} for used in each.used]}
                for each in found.budgets
            ]
            put_json({"budgets": listed, "waiting": [asdict(each) for each in found.waiting]})
            return ExitCode.OK
        head = [
            "budget",
            "period",
            "of",
            "spent",
            "reserved",
            "limit",
            "share",
            "unknown",
            "soft line passed",
            "turns in",
            "at its end",
            "waiting",
        ]
        put_table(head, [row for each in found.budgets for row in _rows(each)])
        if found.waiting:
            put("")
            rows = [[each.run_id, str(each.step), each.budget, clock(each.since), clock(each.until)] for each in found.waiting]
            put_table(["run", "step", "budget", "since", "until"], rows)
        return ExitCode.OK

    return asyncio.run(told())


def _rows(budget: Budget) -> Iterator[list[str]]:
    """One for every limit; what is the same for all of a budget stands in the first."""
    for place, used in enumerate(budget.used):
        first = place == 0
        yield [
            budget.budget,
            budget.period,
            used.dimension,
            _amount(used.spent),
            _amount(used.reserved),
            _amount(used.limit) if used.share <= 1 else f"{_amount(used.limit)} (over)",
            f"{used.share:.0%}",
            usd(budget.unknown_usd) if first and budget.unknown_usd else "",
            clock(budget.soft_since) if first else "",
            seconds(budget.turns_in_s) if first else "",
            (budget.on_hard or "configured no more") if first else "",
            str(budget.waiting or "") if first else "",
        ]


def _amount(amount: Decimal | int) -> str:
    return usd(amount) if isinstance(amount, Decimal) else f"{amount:,}"
