"""Where orders come in: each is read, judged in the order of its arrival, carried out or refused, answered, and noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue

from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.messages import Frozen
from workflows.contracts.people import Answer, Change, Decision, Edit, Instruct, Interrupt, Order, Stop, TakeOver, Verdict
from workflows.contracts.runs import Redrive
from workflows.course import Course
from workflows.deciding import Deciding
from workflows.judged import ACCEPTED, Judged, refused
from workflows.orders import Sent, read, read_signal
from workflows.questions import REMEMBERED
from workflows.redriving import redrive


class Desk:
    """Takes orders for one run. One is judged at a time, so that the first counts."""

    def __init__(self, course: Course, end: Callable[[], None]) -> None:
        self._course = course
        self._end = end
        self._deciding = Deciding(course)
        self._turn = asyncio.Lock()
        self._answered: dict[str, Verdict] = {}
        self.last_word: TakeOver | Stop | None = None
        """The order that ends the run."""

    async def take_signal(self, name: str, given: Sequence[RawValue]) -> None:
        """A signal, whatever was sent."""
        if name == names.WAKE:
            self._course.control.wake()
            return
        await self._take(read_signal(name, given), "signal")

    async def take_update(self, given: tuple[Any, ...]) -> Verdict:
        """An update: one object with `order`, and that order's fields beside it."""
        value = given[0] if len(given) == 1 and isinstance(given[0], dict) else {}
        fields = dict(value)
        return await self._take(read(str(fields.pop("order", "")), fields), "update")

    async def _take(self, sent: Sent, channel: Literal["signal", "update"]) -> Verdict:
        order_id = getattr(sent.order, "id", "")
        async with self._turn:
            if order_id in self._answered:  # an update that nobody answered, and the signal that was sent after it
                return self._answered[order_id]
            if sent.order is None:
                judged = [Judged(Verdict(outcome="refused", reason=sent.problem))]
            elif self._course.control.ended:
                judged = [refused("the run has ended")]
            else:
                judged = await self._judge(sent.name, sent.order)
            for each in judged:
                self._note(sent, channel, each)
            verdict = next((each.verdict for each in judged if not each.verdict.holds), judged[0].verdict)
            if order_id:
                self._answered[order_id] = verdict
                while len(self._answered) > REMEMBERED:
                    del self._answered[next(iter(self._answered))]
        return verdict

    def _note(self, sent: Sent, channel: Literal["signal", "update"], judged: Judged) -> None:
        verdict, order = judged.verdict, sent.order
        said = getattr(order, "reason", "") or getattr(order, "message", "")
        order_for_parked = order if isinstance(order, Redrive) else None
        if not verdict.holds:
            workflow.logger.warning("order.refused", extra={"order": sent.name, "outcome": verdict.outcome, "reason": verdict.reason})
        self._course.scribe.note(
            order=sent.name,
            channel=channel,
            by=sent.by,
            call_id=judged.call_id,
            step=judged.step,
            outcome=verdict.outcome,
            reason=": ".join(part for part in (verdict.reason, said) if part),
            given=sent.given,
            version=judged.version,
            closes=judged.closes,
            letter=judged.letter,
            action=order_for_parked.action if order_for_parked else "",
            result=order_for_parked.result if order_for_parked else "",
        )

    async def _judge(self, name: str, order: Frozen) -> list[Judged]:
        match order:
            case Decision():
                return await self._deciding.decide(name, order)
            case Edit():
                return [await self._deciding.edit(order)]
            case Answer():
                return [await self._deciding.answer(order)]
            case Redrive():
                return await redrive(self._course, order)
            case Instruct() if order.call_id is not None:
                return [await self._deciding.instruct(order, order.call_id)]
            case Instruct():
                self._course.messages.append(f"A person of the operator's instructs you: {order.message}")
                return [Judged(ACCEPTED)]
            case Interrupt():
                return [self._interrupt(order)]
            case Change():
                return [self._change(order)]
            case TakeOver() | Stop():
                self.last_word = order
                self._course.control.ending = True
                self._end()
                return [Judged(ACCEPTED)]
            case Order():
                return [self._hold(order.by if name == names.PAUSE else None)]
        return [refused(f"{name} cannot be carried out here")]  # pragma: no cover - every order is named above

    def _interrupt(self, order: Interrupt) -> Judged:
        self._course.messages.append(order.message)
        broken_off = self._course.control.interrupt() if order.now else 0
        return Judged(Verdict(outcome="accepted", reason=f"{broken_off} steps were broken off" if order.now else ""))

    def _change(self, order: Change) -> Judged:
        course = self._course
        if not order.model and not order.limits:
            return refused("nothing to change: give model, or limits")
        try:
            limits = Limits.model_validate(course.agent.limits.model_dump() | order.limits)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return refused(f"limits.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
        course.agent = course.agent.model_copy(update={"limits": limits, "model": order.model or course.agent.model})
        course.show()
        return Judged(ACCEPTED)

    def _hold(self, by: str | None) -> Judged:
        control = self._course.control
        if (control.paused_by is None) == (by is None):
            return Judged(Verdict(outcome="duplicate", reason="it is not paused" if by is None else f"{control.paused_by} has paused it"))
        control.pause(by)
        return Judged(ACCEPTED)
