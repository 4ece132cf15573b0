"""The budgets as they stand in their present period, and which runs wait for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from state import budgets
from state.budgets import BudgetState, Waiting
from state.pool import Database
from workflows.contracts.inference import BudgetEntry, BudgetScope

DIMENSIONS = ("cost_usd", "tokens", "calls")


@dataclass(frozen=True, slots=True)
class Used:
    """One limit of a budget, and how far it is used."""

    dimension: str
    """`cost_usd`, `tokens` or `calls`."""
    spent: Decimal | int
    """Unknown spend included."""
    reserved: Decimal | int
    """By calls in the air."""
    limit: Decimal | int

    @property
    def share(self) -> float:
        """Spent and reserved, of the limit; above 1 where the limit was lowered below it."""
        return float((self.spent + self.reserved) / self.limit)


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget in its present period."""

    budget: str
    """Name and whose, as in `team-day:acme`; `team-day:*` stands for those whose budget nobody has used in this period."""
    name: str
    period: str
    on_hard: str | None
    """`refuse` or `wait`; None: it is configured no more."""
    used: tuple[Used, ...]
    unknown_usd: Decimal
    soft: float
    soft_since: datetime | None
    """Since when its soft line is passed."""
    turns_in_s: float
    waiting: int
    """So many steps wait for it."""

    @property
    def share(self) -> float:
        """Of the limit that is used most."""
        return max((each.share for each in self.used), default=0.0)


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Every budget that is configured, or was used in its present period, by name; and the steps that wait, longest first."""

    budgets: tuple[Budget, ...]
    waiting: tuple[Waiting, ...]


async def report(database: Database, configured: Mapping[str, BudgetEntry]) -> BudgetReport:
    """What stands now."""
    states, waiting = await budgets.current(database), await budgets.waiting(database)
    used = {(state.name, state.period) for state in states}
    turns = await budgets.turns(database)
    found = [_standing(state, configured.get(state.name), waiting) for state in states]
    for name, entry in configured.items():
        if (name, entry.period) not in used:
            whose = name if entry.scope is BudgetScope.GLOBAL else f"{name}:{entry.of}"
            found.append(_unused(name, whose, entry, turns[entry.period]))
    return BudgetReport(tuple(sorted(found, key=lambda each: (each.name, each.period, each.budget))), tuple(waiting))


def _standing(state: BudgetState, entry: BudgetEntry | None, waiting: Sequence[Waiting]) -> Budget:
    """As it is used; the limits that are configured now count, whatever the last call was told."""
    if entry is not None and entry.period != state.period:
        entry = None
    limits = (entry.cost_usd, entry.tokens, entry.calls) if entry else (state.cost_limit_usd, state.token_limit, state.call_limit)
    spent = (state.spent_usd, state.spent_tokens, state.spent_calls)
    reserved = (state.reserved_usd, state.reserved_tokens, state.reserved_calls)
    return Budget(
        budget=state.budget,
        name=state.name,
        period=state.period,
        on_hard=entry.on_hard if entry else None,
        used=tuple(Used(*each) for each in zip(DIMENSIONS, spent, reserved, limits, strict=True) if each[3] is not None),  # type: ignore[arg-type]  # just looked at
        unknown_usd=state.unknown_usd,
        soft=entry.soft if entry else state.soft,
        soft_since=state.soft_since,
        turns_in_s=state.turns_in_s,
        waiting=sum(each.budget == state.budget for each in waiting),
    )


def _unused(name: str, whose: str, entry: BudgetEntry, turns_in_s: float) -> Budget:
    limits = zip(DIMENSIONS, (entry.cost_usd, entry.tokens, entry.calls), strict=True)
    return Budget(
        budget=whose,
        name=name,
        period=entry.period,
        on_hard=entry.on_hard,
        used=tuple(Used(dimension, 0, 0, limit) for dimension, limit in limits if limit is not None),
        unknown_usd=Decimal(0),
        soft=entry.soft,
        soft_since=None,
        turns_in_s=turns_in_s,
        waiting=0,
    )
