"""The Python client: start agents, follow their runs, decide where they wait for a person."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack, overload

from client import budgets as standing_budgets
from client import comparing, forks, inputs, rebirth, visibility
from client import costs as told_costs
from client import limits as standing_limits
from client import models as standing_models
from client.backend import Backend, open_backend
from client.breakers import BreakerControl
from client.budgets import BudgetReport
from client.cache import CacheControl
from client.comparing import Comparison
from client.configuring import Configuration
from client.costs import CostReport, Wanted
from client.dead_letters import DeadLetters
from client.effects import Effects
from client.events import RunEvent
from client.forks import ForkOptions
from client.inputs import Input
from client.launching import begin
from client.limits import LimitsReport
from client.models import ModelsReport
from client.orders import DEFAULT_BY
from client.people import Inbox
from client.redriving import RedriveOptions
from client.run import Run
from client.settings import Settings
from client.visibility import RunSummary
from state import runs
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.inference import Priority
from workflows.contracts.people import Verdict
from workflows.contracts.runs import RunStatus

if TYPE_CHECKING:
    from telemetry.setup import Telemetry

T = TypeVar("T")

DEFAULT_TENANT = "default"
LIST_LIMIT = 50


class StartOptions(TypedDict, total=False):
    """What `start` takes beside the agent and its input."""

    user: str | None
    tenant: str
    idempotency_key: str | None
    limits: Limits | None
    priority: Priority | str | None
    run_id: str | None


class Orchestrator:
    """An open connection to a Holdfast installation; `Orchestrator.connect()` makes one. Safe to share between tasks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, settings: Settings | None = None, *, telemetry: Telemetry | None = None) -> AsyncIterator[Orchestrator]:
        """Connect for the length of the block: `async with Orchestrator.connect() as holdfast:`.

        Without settings the environment is read: TEMPORAL_ADDRESS and DATABASE_URL, or the `holdfast dev` that runs here.
        A program that traces by OpenTelemetry finds its runs in its own traces; `telemetry` is for processes that open ours.

        Raises:
            SettingsError: nothing says where the servers are, or they refuse us.
            UnavailableError: Temporal or the database does not answer; names which, and the remedy.
        """
        async with open_backend(settings or Settings.from_environment(), telemetry) as backend:
            yield cls(backend)

    @property
    def settings(self) -> Settings:
        """What the connection was made from."""
        return self._backend.settings

    @property
    def breakers(self) -> BreakerControl:
        """The circuit breakers of providers, models and keys: how they stand, and holding one open or closed by hand."""
        return BreakerControl(self._backend)

    @property
    def cache(self) -> CacheControl:
        """The response cache: what it saved, what is in it, and throwing answers away."""
        return CacheControl(self._backend)

    @property
    def dead_letters(self) -> DeadLetters:
        """Steps that cannot go on: which there are, and letting them go on, one by one or many at once."""
        return DeadLetters(self._backend)

    @property
    def effects(self) -> Effects:
        """What tools did: the effect ledger, and a person's word on what nobody knows."""
        return Effects(self._backend)

    @property
    def inbox(self) -> Inbox:
        """What waits for people over all runs, deciding on many at once, and the record of who decided what."""
        return Inbox(self._backend)

    @property
    def config(self) -> Configuration:
        """The configuration that all workers share: look at it, change it, take a change back."""
        return Configuration(self._backend)

    async def start(
        self,
        agent: str,
        input: Input,  # noqa: A002 - the word for it
        *,
        user: str | None = None,
        tenant: str = DEFAULT_TENANT,
        idempotency_key: str | None = None,
        limits: Limits | None = None,
        priority: Priority | str | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Start a run; when this returns, Temporal has it and it will not be lost.

        A start that failed is safe to repeat with the same idempotency key: it gives the same run, whether the first one
        came through or not.

        Args:
            agent: the agent's name.
            input: text, or data (a dict, a list, a pydantic model) that the model is shown as JSON; at most 1 MiB.
            user: whom it is for; memories and the list of runs go by it.
            tenant: whose it is; keys are per tenant.
            idempotency_key: the caller's name for this request: the same key is the same run.
            limits: instead of the definition's limits.
            priority: instead of the definition's: urgent, high, normal, low, batch.
            run_id: an id of the caller's choice, instead of a new one.

        Raises:
            UnknownAgentError: no such agent; names those there are.
            InvalidInputError: the input, or one of the names, cannot be used.
            InputTooLargeError: the input is over the limit.
            IdempotencyConflictError: the key, or the run id, stands for another request already.
            UnavailableError: Temporal or the database does not answer.
        """
        text = inputs.read_input(input)
        urgency = inputs.read_priority(priority)
        inputs.check_names(user=user, tenant=tenant, idempotency_key=idempotency_key)
        run_id = inputs.choose_run_id(agent, tenant, idempotency_key, run_id)
        current = await self._backend.definitions.current(agent)
        new = runs.NewRun(
            run_id=run_id,
            tenant=tenant,
            agent=agent,
            definition_hash=current.content_hash(),
            user=user,
            idempotency_key=idempotency_key,
            body_hash=inputs.body_hash(agent, text, user, limits),
            cost_limit_usd=(limits or current.limits).cost_usd,
        )
        return Run(await begin(self._backend, new, text, current, limits, urgency), self._backend)

    @overload
    async def run(
        self,
        agent: str,
        input: Input,
        *,
        as_: None = None,
        timeout_s: float | None = None,
        **options: Unpack[StartOptions],
    ) -> str: ...
    @overload
    async def run(
        self,
        agent: str,
        input: Input,
        *,
        as_: type[T],
        timeout_s: float | None = None,
        **options: Unpack[StartOptions],
    ) -> T: ...
    async def run(
        self,
        agent: str,
        input: Input,  # noqa: A002
        *,
        as_: type[T] | None = None,
        timeout_s: float | None = None,
        **options: Unpack[StartOptions],
    ) -> str | T:
        """Start a run and wait for its answer: `start` and `Run.result` in one; takes what both take and raises what both raise."""
        started = await self.start(agent, input, **options)
        return await (started.result(timeout_s=timeout_s) if as_ is None else started.result(as_, timeout_s=timeout_s))

    async def get(self, run_id: str) -> Run:
        """A run that was started before, by anybody.

        Raises:
            UnknownRunError: no such run.
        """
        await runs.books(self._backend.database, run_id)
        return Run(run_id, self._backend)

    async def result(self, run_id: str, *, timeout_s: float | None = None) -> str:
        """Wait for a run's answer; `Run.result` says what it raises."""
        return await Run(run_id, self._backend).result(timeout_s=timeout_s)

    def events(self, run_id: str, after: str | None = None) -> AsyncIterator[RunEvent]:
        """A run's steps and changes of status as they come; see `Run.events`."""
        return Run(run_id, self._backend).events(after)

    async def cancel(self, run_id: str) -> None:
        """Ask a run to stop; see `Run.cancel`."""
        await Run(run_id, self._backend).cancel()

    async def approve(self, run_id: str, call_id: str | None = None, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say yes to one waiting tool call of a run, or to all; see `Run.approve`."""
        return await Run(run_id, self._backend).approve(call_id, reason=reason, by=by)

    async def reject(self, run_id: str, call_id: str | None = None, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say no to one waiting tool call of a run, or to all; see `Run.reject`."""
        return await Run(run_id, self._backend).reject(call_id, reason=reason, by=by)

    async def redrive(self, run_id: str, **options: Unpack[RedriveOptions]) -> Verdict:
        """Let a parked run go on; see `Run.redrive`."""
        return await Run(run_id, self._backend).redrive(**options)

    async def list(
        self,
        *,
        status: RunStatus | str | None = None,
        agent: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        sub_runs: bool = False,
        limit: int = LIST_LIMIT,
    ) -> tuple[RunSummary, ...]:
        """Runs, newest first, that fit all that is given. A run that started this very moment may be missing still.

        Args:
            status: only runs that stand there.
            agent: only this agent's.
            tenant: only this tenant's.
            user: only this user's.
            sub_runs: also runs that other runs started.
            limit: how many at most.

        Raises:
            InvalidInputError: no such status.
        """
        wanted = visibility.Wanted(status=visibility.read_status(status), agent=agent, tenant=tenant, user=user, sub_runs=sub_runs)
        return await visibility.listed(self._backend, wanted, max(1, limit))

    async def fork(self, run_id: str, from_step: int, **changes: Unpack[ForkOptions]) -> Run:
        """Start a new run that shares an old one's steps before `from_step`: they are not paid and not done again.

        From that step on it asks models and runs tools anew, with the changes. Its effects have keys of their own; those with a
        business key (`key=` of the tool) are shared with every run, as always.

        Raises:
            InvalidInputError: the run has no such step, or one before it has no result yet; or a change cannot be used.
            ArgumentsError: the arguments do not fit the tool's schema.
            UnknownRunError, UnknownAgentError: no such run; no such version of its agent.
            RunStateError: an effect before the step was undone; or the id that was chosen is another run's.
            UnavailableError: Temporal or the database does not answer; with a `new_run_id` of your choice the same call goes on.
        """
        return Run(await forks.fork(self._backend, run_id, from_step, changes), self._backend)

    async def rebirth(self, run_id: str, *, terminate: bool = False, by: str = DEFAULT_BY) -> Run:
        """Let a run that was terminated, timed out or failed go on from its recorded steps, as a new run, `RUN-r1`.

        What was paid is not paid again. An effect that was in flight is asked for by its old key, never silently done again.
        Asked for again, it is the same new run, unless that one died, too.

        Args:
            run_id: the run that died.
            terminate: end it first, where its workflow tasks fail again and again, so that it cannot go on.
            by: who says so.

        Raises:
            RunStateError: it has not died, it is part of another run, or one of its effects was undone.
            UnknownRunError: no such run.
            UnavailableError: Temporal or the database does not answer; the same call goes on.
        """
        return Run(await rebirth.rebirth(self._backend, run_id, terminate=terminate, by=by), self._backend)

    async def compare(self, a: str, b: str) -> Comparison:
        """Two runs side by side: step by step what is the same and what is not, costs, answers.

        Raises:
            UnknownRunError: no such run.
        """
        return await comparing.compare(self._backend, a, b)

    async def agents(self) -> tuple[AgentDefinition, ...]:
        """The agents that runs can be started of, by name, as they are now."""
        return tuple(await self._backend.definitions.all_current())

    async def limits(self) -> LimitsReport:
        """What every limit has free now, and who waits for one."""
        return await standing_limits.report(self._backend.database)

    async def models(self) -> ModelsReport:
        """What each tier means, and how its models, their providers and keys stand."""
        return await standing_models.report(self._backend)

    async def costs(
        self,
        *by: str,
        since: datetime | timedelta = told_costs.LAST,
        until: datetime | None = None,
        agent: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        model: str | None = None,
        run: str | None = None,
    ) -> CostReport:
        """What model calls cost, by agent or by whatever is named, and a forecast of today (UTC) with how it was made.

        Args:
            by: agent, user, tenant, key, model, provider, tier, run, step, attempt, day, hour; many are allowed.
            since: a moment, or so far back from now; a day where nothing is said.
            until: a moment; calls that began then or later do not count.
            agent: only this agent's; the same goes for what follows. A run counts with its sub-runs.

        Raises:
            InvalidInputError: costs cannot be told by one of `by`, or a moment has no time zone.
        """
        wanted = Wanted(by or ("agent",), since=since, until=until, agent=agent, tenant=tenant, user=user, model=model, run=run)
        return await told_costs.report(self._backend.database, wanted)

    async def budgets(self) -> BudgetReport:
        """Every budget in its present period, with what is spent and reserved; and who waits for one."""
        return await standing_budgets.report(self._backend.database, (await self.config.effective()).budgets)
