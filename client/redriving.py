"""Orders for steps that cannot go on: what people may change, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypedDict

from pydantic import ValidationError

from client import agent_versions, orders, reports
from client.backend import Backend
from client.orders import DEFAULT_BY
from state import dead_letter_lists, dead_letters, runs
from state.dead_letter_lists import DeadLetter, LetterFilter
from workflows.contracts import names
from workflows.contracts.agents import Limits, PinnedAgent
from workflows.contracts.errors import ArgumentsError, InvalidInputError, RunStateError
from workflows.contracts.people import Verdict
from workflows.contracts.redaction import redact
from workflows.contracts.runs import Redrive

_ONLY_WITH: Final = {
    "arguments": ("retry",),
    "input": ("retry",),
    "model": ("retry",),
    "limits": ("retry",),
    "instructions": ("retry",),
    "agent_version": ("retry",),
    "result": ("skip",),
    "undo": ("abort",),
}


class RedriveOptions(TypedDict, total=False):
    """How a parked step goes on."""

    action: Literal["retry", "skip", "not_done", "abort"]
    """`retry` the step, which it is when left out; `skip` it with `result`; say that an effect of unknown outcome was `not_done`; or
    `abort` the run."""
    limits: Limits | Mapping[str, Any] | None
    """New limits; a mapping changes those it names, and leaves the others."""
    model: str | None
    """Another model or tier for the rest of the run."""
    agent_version: str | None
    """Another version of the agent's definition, by version or hash; `current`: as it is now."""
    instructions: str | None
    """Other instructions for the agent from here on."""
    arguments: Mapping[str, Any] | None
    """Other arguments for a parked tool call; all of them."""
    input: str | None
    """Another first message in place of the run's own."""
    result: str
    """For `skip`: what the call gave, as the model is told."""
    undo: bool
    """For `abort`: what the run's tools did is undone first."""
    reason: str
    """Why, for the record."""
    by: str
    """Who says so."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an order is about, as far as it is known here."""

    run_id: str
    agent: str
    definition_hash: str
    letter: int | None = None
    """None: every parked step of the run."""
    tool: str | None = None
    limits: Limits | None = None


async def subject(backend: Backend, run_id: str, letter: int | None = None) -> Subject:
    """What is known of a run's parked step.

    Raises:
        UnknownRunError: no such run.
        InvalidInputError: the run has no such dead letter.
    """
    if letter is not None:
        found = await dead_letter_lists.get(backend.database, run_id, letter)
        if found is None:
            await runs.books(backend.database, run_id)
            raise InvalidInputError(f"Run {run_id} has no dead letter {letter}: `holdfast dead-letters list --run {run_id}` lists them.")
        return of_letter(found)
    waiting = await dead_letter_lists.find(backend.database, LetterFilter(run_id=run_id), limit=1)
    if waiting:
        first = of_letter(waiting[0])
        return Subject(run_id, first.agent, first.definition_hash, None, first.tool, first.limits)
    books = await runs.books(backend.database, run_id)
    return Subject(run_id, books.agent, books.definition_hash)


async def redrive(backend: Backend, run_id: str, letter: int | None, options: RedriveOptions) -> Verdict:
    """Order one parked step, or with None every one of a run, to go on; what the run says to it.

    Raises:
        RunStateError: the run is not parked, or refuses the order; says why.
        UnknownRunError: no such run.
        ArgumentsError: the arguments do not fit the tool's schema.
        InvalidInputError: the order cannot be used; names the field.
    """
    maker, about = OrderMaker(backend, options), await subject(backend, run_id, letter)
    if about.limits is None and isinstance(options.get("limits"), Mapping):
        about = replace(about, limits=(await reports.view(backend, run_id)).limits)
    order = await maker.order(about)
    if letter is not None and letter < 0:
        found = await dead_letter_lists.get(backend.database, run_id, letter)
        assert found is not None  # noqa: S101 - it was the order's subject
        return await rule_of_ended(backend, found, order)
    return await orders.give(backend, run_id, names.REDRIVE, order)


async def rule_of_ended(backend: Backend, letter: DeadLetter, order: Redrive) -> Verdict:
    """Settle what a run has left behind at its end, an effect whose outcome nobody knows: no run is there to be told.

    Raises:
        RunStateError: it was ordered to go on, or it is settled already.
    """
    if order.action == "retry":
        raise RunStateError(f"Run {letter.run_id} has ended: say what became of its {letter.tool}, by `skip` (it was done) or `not_done`.")
    async with backend.database.transaction() as connection:
        settled = await dead_letters.settle_by_hand(
            connection, letter, action=order.action, by=order.by, reason=order.reason, result=order.result
        )
    if not settled:
        raise RunStateError(f"Dead letter {letter.id} is settled already: `holdfast dead-letters show {letter.id}` tells by whom.")
    return Verdict(outcome="accepted")


def of_letter(letter: DeadLetter) -> Subject:
    """A dead letter as the subject of an order."""
    limits = Limits.model_validate(letter.limits)
    return Subject(letter.run_id, letter.agent, letter.definition_hash, letter.letter, letter.tool, limits)


class OrderMaker:
    """Makes orders by one set of options; what many have in common is looked up once."""

    def __init__(self, backend: Backend, options: RedriveOptions) -> None:
        self._backend = backend
        self._options = options
        self._agents: dict[tuple[str, str], PinnedAgent] = {}
        _check(options)

    @property
    def by(self) -> str:
        """Who gives them."""
        return self._options.get("by") or DEFAULT_BY

    @property
    def action(self) -> str:
        """What they order."""
        return self._options.get("action") or "retry"

    async def order(self, about: Subject) -> Redrive:
        """The order for one.

        Raises:
            ArgumentsError: the arguments do not fit the tool's schema.
            UnknownAgentError: there is no such version of the agent.
            InvalidInputError: a field cannot be used; names it.
        """
        options = self._options
        pinned = await self._pinned(about)
        arguments, limits = options.get("arguments"), options.get("limits")
        if arguments is not None and about.tool is not None:
            await self._check_arguments(pinned, about.tool, dict(arguments))
        given = {
            "action": self.action,
            "letter": about.letter,
            "model": options.get("model"),
            "limits": None if limits is None else agent_versions.changed_limits(about.limits or pinned.limits, limits),
            "agent": None if pinned.definition_hash == about.definition_hash else pinned,
            "arguments": None if arguments is None else dict(arguments),
            "input": options.get("input"),
            "result": redact(options.get("result") or ""),
            "undo": bool(options.get("undo")),
            "by": self.by,
            "reason": redact(options.get("reason") or ""),
        }
        try:
            return Redrive.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the order"
            raise InvalidInputError(f"This is no order for a parked run: {where}: {first['msg']}.") from error

    async def _check_arguments(self, pinned: PinnedAgent, tool: str, arguments: dict[str, Any]) -> None:
        definition = await self._backend.definitions.by_hash(pinned.definition_hash)
        spec = next((each for each in definition.tools if each.name == tool), None)
        if spec is None:  # another agent as a tool: the worker checks it
            return
        import jsonschema

        validator = jsonschema.validators.validator_for(spec.parameters, jsonschema.Draft202012Validator)(spec.parameters)
        wrong = next(validator.iter_errors(arguments), None)
        if wrong is not None:
            where = "/".join(str(part) for part in wrong.absolute_path) or "the arguments"
            raise ArgumentsError(f"The arguments do not fit the schema of {tool}: {where}: {wrong.message[:300]}.")

    async def _pinned(self, about: Subject) -> PinnedAgent:
        """What the run goes on with: its own definition, unless another version or other instructions are ordered."""
        key = (about.agent, about.definition_hash)
        if key not in self._agents:
            own = (await self._backend.definitions.by_hash(about.definition_hash)).pin()
            version, instructions = self._options.get("agent_version"), self._options.get("instructions")
            self._agents[key] = await agent_versions.another(self._backend, own, version=version, instructions=instructions)
        return self._agents[key]


def _check(options: RedriveOptions) -> None:
    action = options.get("action") or "retry"
    for name, actions in _ONLY_WITH.items():
        if options.get(name) and action not in actions:
            raise InvalidInputError(f"{name} goes with {' or '.join(actions)}, not with {action}: leave it out, or order that.")
    if options.get("instructions") is not None and not (options["instructions"] or "").strip():
        raise InvalidInputError("instructions are empty: say what the agent shall do, or leave them out.")
