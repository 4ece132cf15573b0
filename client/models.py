"""The models as they stand: what each tier means, who may answer, by which keys, at which price, and what came of it lately."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from client.backend import Backend
from client.configuring import Configuration
from state import breakers, model_use, worker_keys
from state.breakers import Breaker
from state.model_use import ModelUse
from state.worker_keys import WorkerKey
from workflows.contracts.inference import InferenceSettings, TierEntry
from workflows.contracts.provider_settings import KeyEntry, ModelSettings, Rates

LATELY_S: Final = 3_600.0
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """One key of a provider, by its name; nobody but the workers has the secret."""

    name: str
    source: str
    """The variable, file or program it is read from."""
    weight: float
    limits: dict[str, float]
    breaker: str
    workers: int
    """So many live workers have it."""
    problems: tuple[str, ...]
    """Why others do not."""
    calls: int
    """Within the last hour."""


@dataclass(frozen=True, slots=True)
class ProviderStanding:
    """One provider."""

    name: str
    dialect: str
    base_url: str | None
    limits: dict[str, float]
    breaker: str
    keys: tuple[KeyStanding, ...]


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """One model that a tier names, that the settings know, or that was called within the last hour."""

    name: str
    """PROVIDER:MODEL."""
    tiers: tuple[str, ...]
    input_usd_per_million: Decimal | None
    output_usd_per_million: Decimal | None
    context_window_tokens: int | None
    limits: dict[str, float]
    breaker: str
    calls: int
    """Within the last hour, as the next ones."""
    failed: int
    in_the_air: int
    share: float
    """Its part of all calls."""
    cost_usd: Decimal
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """What stands now, by the settings of the worker that was seen last."""

    tiers: dict[str, TierEntry]
    models: tuple[ModelStanding, ...]
    providers: tuple[ProviderStanding, ...]


async def report(backend: Backend) -> ModelsReport:
    """All tiers, models and providers, and how they stand."""
    settings = await Configuration(backend).effective()
    standing = {each.scope: each for each in await breakers.read_all(backend.database)}
    used = await model_use.lately(backend.database, LATELY_S)
    keys = await worker_keys.live(backend.database)
    models = await asyncio.to_thread(lambda: tuple(_models(settings, standing, used)))
    return ModelsReport(settings.tiers, models, tuple(_providers(settings, standing, used, keys)))


def told(breaker: Breaker | None) -> str:
    """How a breaker stands, in a few words; `closed` for one that never had trouble."""
    if breaker is None:
        return "closed"
    if breaker.forced is not None:
        because = f": {breaker.forced_reason}" if breaker.forced_reason else ""
        return f"held {breaker.forced} by {breaker.forced_by}{because}"
    if breaker.state == "half_open":
        return f"probing: {breaker.reason}"
    if breaker.state == "open":
        left_s = breaker.open_for_s or 0.0
        return f"open, {f'probe in {left_s:.0f} s' if left_s > 0 else 'probe is due'}: {breaker.reason}"
    cooling_s = breaker.cooling_for_s or 0.0
    return f"cooling for {cooling_s:.0f} s" if cooling_s > 0 else "closed"


def _models(settings: InferenceSettings, standing: dict[str, Breaker], used: list[ModelUse]) -> Iterator[ModelStanding]:
    tiers = {model: None for tier in settings.tiers.values() for model in tier.models}
    names = [*tiers, *settings.models, *(f"{each.provider}:{each.model}" for each in used)]
    total = sum(each.calls for each in used)
    for name in dict.fromkeys(names):
        of = [each for each in used if f"{each.provider}:{each.model}" == name]
        own = settings.models.get(name, ModelSettings())
        price = _price(settings, name, own)
        calls = sum(each.calls for each in of)
        yield ModelStanding(
            name=name,
            tiers=tuple(tier for tier, entry in settings.tiers.items() if name in entry.models),
            input_usd_per_million=price[0],
            output_usd_per_million=price[1],
            context_window_tokens=own.context_window_tokens or price[2],
            limits=_limits(own.limits),
            breaker=told(standing.get(f"model:{name}")),
            calls=calls,
            failed=sum(each.failed for each in of),
            in_the_air=sum(each.in_the_air for each in of),
            share=calls / total if total else 0.0,
            cost_usd=sum((each.cost_usd for each in of), Decimal(0)),
            last_at=max((each.last_at for each in of), default=None),
        )


def _price(settings: InferenceSettings, name: str, own: ModelSettings) -> tuple[Decimal | None, Decimal | None, int | None]:
    """USD per million tokens of input and output, and the window: of the settings, or of the price table for short contexts."""
    import genai_prices  # slow to import, and only this report needs it

    provider, _, model = name.partition(":")
    entry, declared = settings.providers.get(provider), settings.unknown_price
    listed: tuple[Decimal | None, Decimal | None, int | None]
    try:
        counted = (genai_prices.Usage(input_tokens=1_000), genai_prices.Usage(output_tokens=1_000))
        found = [
            genai_prices.calc_price(each, model_ref=model, provider_id=entry.price_provider if entry else provider) for each in counted
        ]
        listed = (found[0].total_price * _MILLION / 1_000, found[1].total_price * _MILLION / 1_000, found[0].model.context_window)
    except LookupError:
        listed = (declared.input_usd_per_million, declared.output_usd_per_million, None) if declared else (None, None, None)
    return (own.input_usd_per_million, own.output_usd_per_million, listed[2]) if own.priced else listed


def _providers(
    settings: InferenceSettings, standing: dict[str, Breaker], used: list[ModelUse], keys: list[WorkerKey]
) -> Iterator[ProviderStanding]:
    for name, entry in settings.providers.items():
        yield ProviderStanding(
            name=name,
            dialect=entry.dialect,
            base_url=entry.base_url,
            limits=_limits(entry.limits),
            breaker=told(standing.get(f"provider:{name}")),
            keys=tuple(_key(name, key, standing, used, keys) for key in entry.all_keys),
        )


def _key(provider: str, key: KeyEntry, standing: dict[str, Breaker], used: list[ModelUse], keys: Iterable[WorkerKey]) -> KeyStanding:
    having = [each for each in keys if (each.provider, each.key) == (provider, key.name)]
    return KeyStanding(
        name=key.name,
        source=key.env or (f"file {key.file}" if key.file else f"command {(key.command or ('?',))[0]}"),
        weight=key.weight,
        limits=_limits(key.limits),
        breaker=told(standing.get(f"key:{provider}/{key.name}")),
        workers=sum(each.problem is None for each in having),
        problems=tuple(dict.fromkeys(each.problem for each in having if each.problem is not None)),
        calls=sum(each.calls for each in used if (each.provider, each.key) == (provider, key.name)),
    )


def _limits(rates: Rates) -> dict[str, float]:
    return {name: value for name, value in rates if value is not None and name != "headroom"}
