"""Orders to a run: given by update, so that the run says what became of them; by signal where no worker answers in time."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from pydantic import JsonValue, ValidationError
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from client.backend import Backend
from client.temporal import calls_named
from state import people
from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.errors import InvalidInputError, RunStateError, UnknownRunError
from workflows.contracts.messages import Frozen
from workflows.contracts.people import ORDERS, Verdict
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact_value

DEFAULT_BY: Final = "client"
ANSWER_WITHIN_S: Final = 10.0
"""How long a run's answer is waited for before the order is left to it as a signal."""
_ENDED: Final = "the run has ended"


async def give(backend: Backend, run_id: str, name: str, fields: Mapping[str, Any] | Frozen) -> Verdict:
    """Give a run an order and wait a moment for what became of it; `sent` when no worker has said so yet.

    Raises:
        InvalidInputError: it is no such order; names the field.
        RunStateError: the run refused it, or somebody was first, or the run has ended; says why.
        UnknownRunError: no such run.
        UnavailableError: Temporal does not answer.
    """
    order = _read(name, fields)
    verdict = await _judged(backend, run_id, name, order)
    if verdict is None:
        await _by_signal(backend, run_id, name, order)
        return Verdict(outcome="sent", reason="no worker has answered yet; the run reads it as soon as one does")
    if not verdict.holds:
        raise RunStateError(f"Run {run_id}: {name} was {_words(verdict)}: {verdict.reason}.")
    return verdict


def _read(name: str, fields: Mapping[str, Any] | Frozen) -> dict[str, Any]:
    """The order as it is sent: without secrets, without what is left out, with an id of its own where it can have one."""
    kind: type[Frozen] = ORDERS[name]
    said = fields.model_dump(mode="json", exclude_unset=True) if isinstance(fields, Frozen) else fields
    given = {field: value for field, value in said.items() if value is not None}
    if "id" in kind.model_fields:
        given["id"] = uuid.uuid4().hex
    try:
        checked = kind.model_validate(redact_value(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidInputError(f"{'.'.join(str(part) for part in first['loc']) or name}: {first['msg']}.") from error
    return checked.model_dump(mode="json", exclude_unset=True)


async def _judged(backend: Backend, run_id: str, name: str, order: dict[str, Any]) -> Verdict | None:
    try:
        async with _ends_recorded(backend, run_id, name, order):
            verdict: Verdict = await backend.handle(run_id).execute_update(
                names.ORDER, {"order": name, **order}, result_type=Verdict, rpc_timeout=timedelta(seconds=ANSWER_WITHIN_S)
            )
    except (WorkflowUpdateRPCTimeoutOrCancelledError, WorkflowUpdateFailedError):  # no worker, or one of before this update
        return None
    return verdict


async def _by_signal(backend: Backend, run_id: str, name: str, order: dict[str, Any]) -> None:
    async with _ends_recorded(backend, run_id, name, order):
        await backend.handle(run_id).signal(name, order)


@contextlib.asynccontextmanager
async def _ends_recorded(backend: Backend, run_id: str, name: str, order: dict[str, Any]) -> AsyncIterator[None]:
    """Where the run cannot judge an order any more, write down that it was refused, and that nothing waits for anybody."""
    try:
        with named(backend, run_id):
            yield
    except (RunStateError, UnknownRunError):
        by = str(order.get("by", ""))
        refused = {"order": name, "by": by, "given": one_line(json.dumps(order, ensure_ascii=False))}
        if isinstance(order.get("call_id"), str):
            refused["call_id"] = order["call_id"]
        await people.note_refused(backend.database, run_id, refused, _ENDED)
        async with backend.database.transaction() as connection:
            await people.withdraw(connection, run_id, "client", _ENDED)
        raise


@contextlib.contextmanager
def named(backend: Backend, run_id: str) -> Iterator[None]:
    """Turn what a call about one run raises into our errors."""
    try:
        with calls_named(backend.settings):
            yield
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND and "completed" in error.message:
            raise RunStateError(f"Run {run_id} has ended already.") from error
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise UnknownRunError(f"Temporal has no run {run_id!r}: `holdfast runs` lists them.") from error
        raise


def _words(verdict: Verdict) -> str:
    return "too late" if verdict.outcome == "late" else verdict.outcome


class RunOrders:
    """What people say to a run. Each order raises what `give` raises, and gives the `Verdict` when it holds."""

    id: str
    _backend: Backend

    async def approve(self, call_id: str | None = None, *, version: int | None = None, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say yes to one waiting tool call or held result, or to all that wait; where several must say yes, this is one of them.

        With `version` the decision is for those arguments only: refused when a person has changed them meanwhile.
        """
        return await self._give(names.APPROVE, call_id=call_id, version=version, reason=reason, by=by)

    async def reject(self, call_id: str | None = None, *, version: int | None = None, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say no to one waiting tool call, or to all that wait; the reason is told to the model."""
        return await self._give(names.REJECT, call_id=call_id, version=version, reason=reason, by=by)

    async def edit(self, call_id: str, arguments: Mapping[str, JsonValue], *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say yes to a waiting tool call with other arguments: all of them, as they shall be. The model is told."""
        return await self._give(names.EDIT, call_id=call_id, arguments=dict(arguments), reason=reason, by=by)

    async def answer(self, answer: JsonValue, *, call_id: str | None = None, by: str = DEFAULT_BY) -> Verdict:
        """Answer a question of the agent's; `call_id` may be left out while only one waits."""
        return await self._give(names.ANSWER, answer=answer, call_id=call_id, by=by)

    async def instruct(self, message: str, *, call_id: str | None = None, by: str = DEFAULT_BY) -> Verdict:
        """Tell the agent what to do, from its next step on; with `call_id` in place of that waiting call, which is not run then."""
        return await self._give(names.INSTRUCT, message=message, call_id=call_id, by=by)

    async def take_over(self, answer: str, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """End the run with an answer of a person's; what is in flight is cancelled."""
        return await self._give(names.TAKE_OVER, answer=answer, reason=reason, by=by)

    async def pause(self, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Let the run begin nothing new until it is resumed; what is in flight ends."""
        return await self._give(names.PAUSE, reason=reason, by=by)

    async def resume(self, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Let a paused run go on."""
        return await self._give(names.RESUME, reason=reason, by=by)

    async def interrupt(self, message: str, *, now: bool = False, by: str = DEFAULT_BY) -> Verdict:
        """Tell the agent something new of its user's; with `now` what is in flight is cancelled, except effects that happen once."""
        return await self._give(names.INTERRUPT, message=message, now=now, by=by)

    async def change(
        self, *, model: str | None = None, limits: Mapping[str, Any] | Limits | None = None, reason: str = "", by: str = DEFAULT_BY
    ) -> Verdict:
        """Give a live run another model, other limits or another deadline from its next step on; limits that are left out stay.

        Args:
            model: a tier, or PROVIDER:MODEL.
            limits: by name, as in {"cost_usd": "2.50"}; what a `Limits` leaves at its default stays as it is.
            reason: why, for the record.
            by: who says so.
        """
        given = limits.model_dump(mode="json", exclude_unset=True) if isinstance(limits, Limits) else dict(limits or {})
        plain = {name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in given.items()}
        return await self._give(names.CHANGE, model=model, limits=plain or None, reason=reason, by=by)

    async def stop(self, *, undo: bool = False, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """End the run as cancelled; with `undo` what its tools did is undone first, the last effect first."""
        return await self._give(names.STOP, undo=undo, reason=reason, by=by)

    async def _give(self, name: str, **fields: Any) -> Verdict:
        return await give(self._backend, self.id, name, fields)
