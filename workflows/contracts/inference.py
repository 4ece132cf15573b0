"""How the inference layer is set: tiers, limits, budgets, breakers, cache, and all of it together; in files and in the database alike."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from workflows.contracts.messages import Frozen
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry, Rates

EVERY = "*"
"""As the name of a tenant, an agent, a user: each of them by itself."""


class Priority(StrEnum):
    """How urgent a run's model calls are; a more urgent one passes those that wait."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BATCH = "batch"
    """Not urgent at all: by the provider's Batch API where it has one, within a day at half the price; else the last in line."""


class TierCandidate(Frozen):
    """One model of a tier."""

    model: str
    """PROVIDER:MODEL."""
    weight: float = Field(default=1.0, gt=0)


class TierEntry(Frozen):
    """What a tier's name means. In files a bare `PROVIDER:MODEL`, or a list of them, stands for the candidates in order."""

    candidates: tuple[TierCandidate, ...] = Field(min_length=1)
    choice: Literal["ordered", "weighted"] = "ordered"
    """Take the first that is open and has room; or spread the calls by weight over those that are."""
    downgrade_to: str | None = None
    """The tier to take instead while a budget's soft line is passed, or the wait is too long."""
    downgrade_wait_s: float | None = Field(default=None, gt=0)
    """The expected wait from which on the tier goes down; it comes back at half of it. None: waits do not downgrade."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The most that an answer may have, whatever the agent asks for."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            value = {"candidates": value}
        if isinstance(value, dict) and isinstance(value.get("candidates"), list | tuple):
            listed = [{"model": each} if isinstance(each, str) else each for each in value["candidates"]]
            if not listed:
                raise ValueError("has no model: name at least one")
            value = value | {"candidates": listed}
        return value

    @property
    def models(self) -> tuple[str, ...]:
        """The candidates' names, in order."""
        return tuple(candidate.model for candidate in self.candidates)


class BudgetScope(StrEnum):
    """Whose spend a budget holds."""

    AGENT = "agent"
    USER = "user"
    TENANT = "tenant"
    GLOBAL = "global"


class BudgetEntry(Frozen):
    """What may be spent in a period. A run's own budget is in its agent's limits."""

    scope: BudgetScope
    of: str = EVERY
    """The agent, user (of a tenant, as `tenant/user`, or in any) or tenant; `*`: each one has this budget for itself."""
    period: Literal["hour", "day", "month"]
    """By the UTC clock of the database."""
    cost_usd: Decimal | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    calls: int | None = Field(default=None, gt=0)
    soft: float = Field(default=0.8, gt=0, le=1)
    """The share from which on an alert is given and tiers that name one go down; they come back a tenth below it."""
    on_hard: Literal["refuse", "wait"] = "refuse"
    """What happens to a call that could pass it: the run is parked with class limit, or waits until the period turns or it is raised."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.cost_usd is None and self.tokens is None and self.calls is None:
            raise ValueError("a budget needs at least one of cost_usd, tokens, calls")
        return self


class BreakerSettings(Frozen):
    """When a circuit breaker opens, and for how long."""

    consecutive_failures: int = Field(default=5, ge=1)
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    window_s: float = Field(default=30.0, gt=0)
    minimum_calls: int = Field(default=20, ge=1)
    """Below so many calls in the window the rate says nothing."""
    open_s: float = Field(default=15.0, gt=0)
    """How long it stays open before one probe is let through; that is the period of probes."""
    quota_open_s: float = Field(default=600.0, gt=0)
    """The same after a used-up quota or a refused key."""


class SemanticSettings(Frozen):
    """Answers given again to a question that only means the same. What stands around it must be the very same, and its numbers too."""

    model: str
    """The embeddings model, PROVIDER:MODEL; the provider speaks the openai dialect."""
    dimensions: int | None = Field(default=None, ge=1, le=16_000)
    """How long its vectors are asked to be; None: as long as the model makes them. Over 2,000 are compared without an index."""
    min_similarity: float = Field(default=0.97, gt=0, le=1)
    """How near two meanings must be, by the cosine of their vectors: 1 is the same."""
    timeout_s: float = Field(default=2.0, gt=0, le=60)
    """How long the embedding may take, its wait at the limits included; then a model is asked without it."""


class CacheSettings(Frozen):
    """Answers that are given again without asking a model. Off for an agent unless its definition says otherwise."""

    enabled: bool = True
    """The switch over all agents."""
    max_entries: int = Field(default=100_000, ge=1)
    stale_s: float = Field(default=86_400, ge=0)
    """How old an answer may be that is given, marked as such, when no model can be reached at all."""
    semantic: SemanticSettings | None = None
    """Unset: only the very same request is given an answer again."""


class LimiterSettings(Frozen):
    """How the limiter behaves."""

    when_database_is_away: Literal["wait", "local"] = "wait"
    """Let calls wait, or let this worker go on with `local_share` of every limit."""
    local_share: float = Field(default=0.1, gt=0, le=1)
    in_process_wait_s: float = Field(default=2.0, ge=0)
    """Longer waits hold no worker slot."""
    horizon_s: dict[Priority, float] = Field(default_factory=lambda: dict(zip(Priority, (12.0, 9.0, 6.0, 4.0, 4.0), strict=True)))
    """How far ahead a slot is given out; more than 15 s counts as 15 s."""
    passed_by_s: dict[Priority, float] = Field(
        default_factory=lambda: {
            Priority.URGENT: 0.0,
            Priority.HIGH: 30.0,
            Priority.NORMAL: 120.0,
            Priority.LOW: 600.0,
            Priority.BATCH: 3600.0,
        }
    )
    """How much later an urgent call may come and still go first: what bounds the wait of the others."""
    told_holds_s: float = Field(default=45.0, ge=0)
    """How long at most a more urgent call waits so that the times told to normal ones hold; 0: it passes them at once."""

    @field_validator("horizon_s", "passed_by_s", mode="before")
    @classmethod
    def _others_keep_their_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        """Settings that name some priorities leave the others as they are."""
        default = cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)
        return {**default, **value} if isinstance(value, dict) else value


class BatchSettings(Frozen):
    """How work of priority `batch` is handed to the providers' Batch APIs."""

    gather_s: float = Field(default=30.0, ge=0)
    """How long a request waits for others to go into its batch."""
    max_requests: int = Field(default=1_000, ge=1, le=50_000)
    """The most requests of one batch."""
    submit_timeout_s: float = Field(default=60.0, gt=0, le=240)
    """How long handing a batch in may take; twice as long after it the batch is looked for at the provider."""
    first_look_s: float = Field(default=60.0, gt=0)
    """When a batch that was handed in is looked at first; each look waits twice as long as the one before."""
    longest_look_s: float = Field(default=1_800.0, gt=0)
    """The longest wait between two looks."""

    @model_validator(mode="after")
    def _looks_grow(self) -> Self:
        if self.longest_look_s < self.first_look_s:
            raise ValueError(f"longest_look_s must be at least first_look_s ({self.first_look_s:g})")
        return self


class AlertSettings(Frozen):
    """Who is told of passed budget lines, opened breakers, refused keys and old dead letters, beside the log and the metrics."""

    command: tuple[str, ...] | None = None
    """A program that gets the alert as one JSON object on standard input."""
    webhook: str | None = None
    """A URL that the same object is posted to."""
    dead_letter_after_s: float = Field(default=86_400, ge=60)
    """How long a dead letter may stay open, in seconds, before it is told of; then once a day."""


class RetentionSettings(Frozen):
    """How long is kept what nobody needs to go on. What runs hold (transcripts, answers of calls of families that go on) is not touched."""

    books_days: int = Field(default=400, ge=62)
    """Model calls, with what they cost, and the periods of budgets. An old run whose calls are gone can be neither forked nor reborn."""
    notes_days: int = Field(default=60, ge=2)
    """Alerts that were given, cached answers past their time, limits that nobody has asked for, keys of workers that have ended."""


class UnknownPrice(Frozen):
    """A declared price for models that no table knows."""

    input_usd_per_million: Decimal = Field(ge=0)
    output_usd_per_million: Decimal = Field(ge=0)


class InferenceSettings(Frozen):
    """All of it: what models.yaml files say, and over them what the database's configuration says."""

    providers: dict[str, ProviderEntry] = {}
    tiers: dict[str, TierEntry] = {}
    tasks: dict[str, str] = {}
    """Task type → tier, as in `summarise: fast`; an agent may name a task type where it names a model."""
    models: dict[str, ModelSettings] = {}
    tenants: dict[str, Rates] = {}
    """Limits by tenant; `*` is each one."""
    agents: dict[str, Rates] = {}
    """Limits by agent; `*` is each one."""
    budgets: dict[str, BudgetEntry] = {}
    breakers: BreakerSettings = BreakerSettings()
    cache: CacheSettings = CacheSettings()
    limiter: LimiterSettings = LimiterSettings()
    batch: BatchSettings = BatchSettings()
    alerts: AlertSettings = AlertSettings()
    retention: RetentionSettings = RetentionSettings()
    unknown_price: UnknownPrice | None = None
    """None: a model without a price is refused."""
    flags: dict[str, bool | int | float | str] = {}

    def over(self, base: InferenceSettings) -> InferenceSettings:
        """These settings laid over others: by entry where there are names, whole where there are none."""
        merged: dict[str, Any] = {}
        for name in self.model_fields_set:
            mine, theirs = getattr(self, name), getattr(base, name)
            merged[name] = {**theirs, **mine} if isinstance(mine, dict) else mine
        return base.model_copy(update=merged)

    def wrong(self) -> str | None:
        """The first contradiction between its parts, with the field and the remedy; None when there is none."""
        return next(_contradictions(self), None)


def _contradictions(settings: InferenceSettings) -> Any:
    known = ", ".join(sorted(settings.providers)) or "none"
    for name, tier in settings.tiers.items():
        for model in tier.models:
            if ":" not in model or model.partition(":")[0] not in settings.providers:
                yield f"tiers.{name}: {model!r} must be PROVIDER:MODEL with a provider of {known}"
        yield from _downgrades(settings, name)
    for task, tier_name in settings.tasks.items():
        if tier_name not in settings.tiers:
            yield f"tasks.{task}: there is no tier {tier_name!r}: name one of {', '.join(sorted(settings.tiers)) or 'none'}"
        if task in settings.tiers:
            yield f"tasks.{task}: a tier has this name too: give one of them another name"
    for model in settings.models:
        if ":" not in model:
            yield f"models.{model}: must be PROVIDER:MODEL"
    yield from _no_embeddings(settings)


def _no_embeddings(settings: InferenceSettings) -> Any:
    semantic = settings.cache.semantic
    if semantic is None:
        return
    able = ", ".join(sorted(name for name, entry in settings.providers.items() if entry.dialect == "openai")) or "none"
    entry = settings.providers.get(semantic.model.partition(":")[0]) if ":" in semantic.model else None
    if entry is None:
        yield f"cache.semantic.model: {semantic.model!r} must be PROVIDER:MODEL with a provider of {able}"
    elif entry.dialect != "openai":
        yield f"cache.semantic.model: {semantic.model!r}: the dialect {entry.dialect} has no embeddings: name a provider of {able}"


def _downgrades(settings: InferenceSettings, name: str) -> Any:
    seen = [name]
    while (lower := settings.tiers[seen[-1]].downgrade_to) is not None:
        if lower not in settings.tiers:
            yield f"tiers.{seen[-1]}.downgrade_to: there is no tier {lower!r}: name one of {', '.join(sorted(settings.tiers))}"
            return
        if lower in seen:
            yield f"tiers.{name}.downgrade_to: goes in a circle ({' → '.join([*seen, lower])}): end it at the cheapest tier"
            return
        seen.append(lower)
