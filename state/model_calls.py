"""The ledger of paid model calls: reserved before, recorded the moment they arrive, never paid twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from state import transcripts
from state.budgets import BudgetLine as BudgetLine
from state.budgets import Refusal as Refusal
from state.pool import Database
from workflows.contracts.errors import UnknownRunError
from workflows.contracts.messages import Message, ModelResponse, Price, Role, Usage
from workflows.contracts.redaction import redact
from workflows.contracts.steps import Appendix, ModelCallRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call may take at most (window and output in tokens, prices in USD per token), and what is told of it beside its cost."""

    provider: str
    model: str
    reason: str
    worker: str
    overhead_tokens: int
    estimate_factor: float
    window_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    input_usd: Decimal
    output_usd: Decimal
    key: str = ""
    """The name of the provider's key."""
    tier: str = ""
    """What the agent names: a tier, a task type or a model."""
    downgraded_from: str | None = None
    decision: dict[str, Any] | None = None
    delayed_s: float | None = None
    batch: bool = False
    cache: str | None = None
    """How a stored answer was found; None: a model is asked."""
    price_factor: Decimal = Decimal(1)
    """The part of the ordinary price that is paid; the prices here hold it already."""
    budgets: tuple[BudgetLine, ...] = ()


@dataclass(frozen=True, slots=True)
class LastCall:
    """The run's last answered call before a step."""

    provider: str
    model: str
    key: str
    input_tokens: int
    cached_tokens: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of a step before a model is chosen. `failures` counts attempts by PROVIDER:MODEL."""

    turn: dict[str, Any] | None
    unknown_usd: Decimal
    messages: tuple[Message, ...]
    input_tokens: int
    failures: dict[str, int]
    last: LastCall | None


@dataclass(frozen=True, slots=True)
class Begun:
    """How a call begins: `go` with the conversation, `recorded` with the turn of a paid response, `context_full` or `over_budget`."""

    outcome: str
    turn: dict[str, Any] | None
    call_id: int
    max_output_tokens: int
    unknown_usd: Decimal
    refused_by: str | None
    messages: tuple[Message, ...]
    input_tokens: int
    refusals: tuple[Refusal, ...] = ()
    """Every budget that has no room, the worst first."""


@dataclass(frozen=True, slots=True)
class SubRun:
    """A run that a turn founds, with its first message."""

    run_id: str
    agent: str
    definition_hash: str
    cost_limit_usd: Decimal
    message: Message


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt in the ledger."""

    call_id: int
    run_id: str
    step: int
    attempt: int
    state: str
    agent: str
    provider: str
    model: str
    cost_usd: Decimal
    price_version: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    request_id: str | None
    simulated: bool
    failure_class: str | None
    failure: str | None
    reason: str
    started_at: datetime
    finished_at: datetime | None
    key: str = ""
    tier: str = ""
    downgraded_from: str | None = None
    batch: bool = False
    cache: str | None = None
    delayed_s: Decimal | None = None
    decision: dict[str, Any] | None = None
    shared: bool = False
    """Copied from the run that paid for it."""


async def look(database: Database, request: ModelCallRequest) -> Looked:
    """What is known of a step before a model is chosen, in one round trip. Writes the appendices, reserves nothing.

    Raises:
        UnknownRunError: the run is not in the database.
    """
    appendices = [_appendix(appendix) for appendix in request.appendices]
    found = await database.fetchrow(
        "select * from look_at_model_call($1,$2,$3,$4,'[]'::jsonb)", request.run_id, request.step, request.agent.name, appendices
    )
    if found is None or found["tenant"] is None:
        raise _no_run(request)
    last = found["last_call"]
    return Looked(
        turn=found["turn"],
        unknown_usd=found["unknown_usd"],
        messages=transcripts.parse_all(found["messages"] or "[]"),
        input_tokens=found["tokens"] or 0,
        failures=found["failures"] or {},
        last=LastCall(**last) if last else None,
    )


def _no_run(request: ModelCallRequest) -> UnknownRunError:
    return UnknownRunError(f"Run {request.run_id} is not in this database: is DATABASE_URL the one it was started with?")


async def begin(database: Database, request: ModelCallRequest, plan: Plan) -> Begun:
    """Reserve the worst case of a call and read the conversation, in one round trip.

    Raises:
        UnknownRunError: the run is not in the database.
    """
    appendices = [_appendix(appendix) for appendix in request.appendices]
    found = await database.fetchrow(
        "select * from begin_budgeted_call($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25)",
        request.run_id,
        request.step,
        request.agent.name,
        plan.provider,
        plan.model,
        plan.worker,
        plan.reason,
        appendices,
        request.agent.limits.cost_usd,
        plan.overhead_tokens,
        Decimal(str(plan.estimate_factor)),
        plan.window_tokens,
        plan.max_output_tokens,
        plan.min_output_tokens,
        plan.input_usd,
        plan.output_usd,
        plan.key,
        plan.tier,
        plan.downgraded_from,
        plan.decision,
        None if plan.delayed_s is None else Decimal(str(round(plan.delayed_s, 3))),
        plan.batch,
        plan.cache,
        plan.price_factor,
        [line.row() for line in plan.budgets],
    )
    if found is None or found["outcome"] == "no_run":
        raise _no_run(request)
    return Begun(
        outcome=found["outcome"],
        turn=found["turn"],
        call_id=found["call_id"] or 0,
        max_output_tokens=found["max_output"],
        unknown_usd=found["unknown_usd"],
        refused_by=found["refused_by"],
        messages=transcripts.parse_all(found["messages"] or "[]"),
        input_tokens=found["input_tokens"],
        refusals=tuple(Refusal(**refusal) for refusal in found["refusals"] or ()),
    )


async def finish(
    database: Database,
    call_id: int,
    *,
    turn: dict[str, Any],
    response: ModelResponse,
    price: Price,
    rows: list[dict[str, Any]],
    sub_runs: tuple[SubRun, ...] = (),
) -> dict[str, Any]:
    """Record a response and all that follows from it, in one round trip; returns the turn that counts (the first recorded)."""
    usage = response.usage
    counts_instead: dict[str, Any] | None = await database.fetchval(
        "select finish_model_call($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)",
        call_id,
        turn,
        price.cost_usd,
        price.version,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        response.request_id,
        response.simulated,
        response.model,
        rows,
        [_sub_run(sub_run) for sub_run in sub_runs],
    )
    return turn if counts_instead is None else counts_instead


async def fail(database: Database, call_id: int, failure_class: str, failure: str) -> None:
    """Give the reservation back: the provider refused before it can have billed."""
    await database.execute("select fail_model_call($1, $2, $3)", call_id, failure_class, _reason(failure))


async def charge_unknown(database: Database, call_id: int, failure_class: str, failure: str) -> None:
    """Charge what was reserved: nobody knows whether the provider billed."""
    await database.execute("select charge_unknown($1, $2, $3)", call_id, failure_class, _reason(failure))


async def charges(database: Database, run_id: str) -> list[Charge]:
    """Every attempt of a run's model calls, in order."""
    columns = ", ".join(Charge.__dataclass_fields__)
    rows = await database.fetch(f"select {columns} from model_calls where run_id = $1 order by step, attempt", run_id)  # noqa: S608 - our own column names
    return [Charge(**dict(row)) for row in rows]


def usage_of(charge: Charge) -> Usage:
    """The tokens of one attempt."""
    return Usage(input_tokens=charge.input_tokens, cached_input_tokens=charge.cached_tokens, output_tokens=charge.output_tokens)


def _reason(failure: str) -> str:
    return redact(transcripts.storable(failure))


async def settle_orphans(database: Database, older_than_s: float) -> int:
    """Charge as unknown what was reserved for calls that began so long ago that no worker can still have them in the air.

    Such a call's run ended before any retry could settle it. Batches take their time and are left alone. Returns how many there were.
    """
    # Each in a transaction of its own: a sweep that held one call's budgets while it waits for another's books could deadlock.
    left = await database.fetch(
        "select call_id from model_calls where state = 'in_flight' and not batch and started_at < now() - make_interval(secs => $1)",
        older_than_s,
    )
    for row in left:
        await charge_unknown(database, row["call_id"], "transient", "its worker ended while the call was in the air")
    return len(left)


def _appendix(appendix: Appendix) -> dict[str, Any]:
    if appendix.call_id:
        message = Message(role=Role.TOOL, call_id=appendix.call_id, text=appendix.text, is_error=appendix.is_error)
    else:
        message = Message(role=Role.USER, text=appendix.text)
    return transcripts.row(appendix.step, message, part=appendix.part) | {"child_run_id": appendix.child_run_id}


def _sub_run(sub_run: SubRun) -> dict[str, Any]:
    return {
        "run_id": sub_run.run_id,
        "agent": sub_run.agent,
        "definition_hash": sub_run.definition_hash,
        "cost_limit_usd": str(sub_run.cost_limit_usd),
    } | {key: value for key, value in transcripts.row(0, sub_run.message).items() if key in ("message", "tokens")}
