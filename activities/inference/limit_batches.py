"""What gathers between two statements of the limiter, and how it is laid into one."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from activities.inference.buckets import Alternative, Ask, Bucket, Postponed, Slot
from state.limits import PRIORITIES, Batch

PLACES = {priority: place for place, priority in enumerate(PRIORITIES)}


@dataclass(frozen=True, slots=True)
class Pending:
    """An ask whose caller waits for its answer."""

    ask: Ask
    answer: asyncio.Future[Slot | Postponed]


@dataclass(frozen=True, slots=True)
class Settled:
    """The difference between what a call reserved of a bucket and used."""

    bucket: Bucket
    reserved: float
    used: float
    slot_at: float

    @property
    def charges(self) -> bool:
        """Whether it takes more, rather than giving back."""
        return self.used > self.reserved


@dataclass(slots=True)
class Gathered:
    """All that the next statement carries."""

    asks: list[Pending] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    told: dict[Bucket, tuple[float | None, float | None]] = field(default_factory=dict)
    cooled: dict[Bucket, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self.asks or self.settled or self.told or self.cooled)


def pack(gathered: Gathered, asks: Sequence[Pending], held: Mapping[str, float]) -> Batch:
    """Lay it into columns; buckets in the order of their names, which is the order they are locked in."""
    batch = Batch()
    forms = _pack_asks(batch, asks)
    buckets = {demand.bucket.name: demand.bucket for ask in forms for alternative in ask.alternatives for demand in alternative.demands}
    for bucket in (*(each.bucket for each in gathered.settled), *gathered.told, *gathered.cooled):
        buckets.setdefault(bucket.name, bucket)
    batch.names.extend(sorted(buckets, key=str.encode))
    for name in batch.names:
        bucket = buckets[name]
        batch.kinds.append(bucket.kind)
        batch.limits.append(bucket.limit)
        batch.periods_s.append(bucket.period_s)
        batch.headrooms.append(bucket.headroom)
        batch.held.append(held.get(name, 0.0))
    places = {name: place for place, name in enumerate(batch.names, 1)}
    _pack_news(batch, gathered, places)
    _pack_forms(batch, forms, places)
    return batch


def as_charged(alternative: Alternative, amounts: Iterator[float]) -> Alternative:
    """The alternative with what it has really taken: a reserved slot was charged by what was asked when it was given out."""
    return replace(alternative, demands=tuple(replace(demand, amount=next(amounts)) for demand in alternative.demands))


def _pack_news(batch: Batch, gathered: Gathered, places: Mapping[str, int]) -> None:
    for each in gathered.settled:
        batch.settled[0].append(places[each.bucket.name])
        batch.settled[1].append(each.reserved)
        batch.settled[2].append(each.used)
        batch.settled[3].append(each.slot_at)
    for bucket, (limit, remaining) in gathered.told.items():
        batch.told[0].append(places[bucket.name])
        batch.told[1].append(limit)
        batch.told[2].append(remaining)
    for bucket, wait_s in gathered.cooled.items():
        batch.cooled[0].append(places[bucket.name])
        batch.cooled[1].append(wait_s)


def _form(ask: Ask) -> tuple[Hashable, ...]:
    """What asks have in common: all but the ticket."""
    return (
        ask.priority,
        ask.horizon_s,
        ask.passed_by_s,
        *[(each.label, each.penalty_s, *[(demand.bucket.name, demand.amount) for demand in each.demands]) for each in ask.alternatives],
    )


def _pack_asks(batch: Batch, asks: Sequence[Pending]) -> list[Ask]:
    """Name the tickets, and count how many are of one form; gives an ask of each form."""
    tickets, places = batch.asks
    counts = batch.forms[0]
    known: dict[tuple[Hashable, ...], int] = {}
    found: list[Ask] = []
    for each in asks:
        ask = each.ask
        place = known.setdefault(_form(ask), len(found))
        if place == len(found):
            found.append(ask)
            counts.append(0)
        counts[place] += 1
        tickets.append(ask.ticket)
        places.append(place + 1)
    return found


def _pack_forms(batch: Batch, forms: Sequence[Ask], places: Mapping[str, int]) -> None:
    _, priorities, horizons, passed, ends = batch.forms
    labels, penalties, demand_ends = batch.alternatives
    wanted, amounts = batch.demands
    for ask in forms:
        for alternative in ask.alternatives:
            for demand in alternative.demands:
                wanted.append(places[demand.bucket.name])
                amounts.append(demand.amount)
            labels.append(alternative.label)
            penalties.append(alternative.penalty_s)
            demand_ends.append(len(wanted))
        priorities.append(PLACES[ask.priority])
        horizons.append(ask.horizon_s)
        passed.append(ask.passed_by_s)
        ends.append(len(labels))
