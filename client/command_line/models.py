"""`holdfast models`: tiers, models, providers and keys as they stand."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import put, put_json, put_table, short_clock, usd

if TYPE_CHECKING:
    from client.models import ModelsReport, ProviderStanding


def models(*, json: AsJson = False) -> int:
    """Tell what each tier means, and how its models, their providers and keys stand: price, limits, breaker, the last hour."""

    async def told() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.models()
        if json:
            tiers = {name: tier.model_dump(mode="json") for name, tier in found.tiers.items()}
            put_json({**asdict(found), "tiers": tiers})
            return ExitCode.OK
        _tiers(found)
        put("")
        _models(found)
        put("")
        put_table(
            ["provider", "key", "from", "weight", "limits", "workers", "calls, 1 h", "status"],
            [row for provider in found.providers for row in _keys(provider)],
        )
        return ExitCode.OK

    return asyncio.run(told())


def _tiers(found: ModelsReport) -> None:
    rows = [
        [name, place, candidate.model, f"{candidate.weight:g}" if tier.choice == "weighted" else "", tier.downgrade_to or ""]
        for name, tier in found.tiers.items()
        for place, candidate in zip(map(str, range(1, len(tier.candidates) + 1)), tier.candidates, strict=True)
    ]
    put_table(["tier", "choice", "model", "weight", "goes down to"], rows)


def _models(found: ModelsReport) -> None:
    rows = [
        [
            each.name,
            f"{_price(each.input_usd_per_million)} / {_price(each.output_usd_per_million)}",
            f"{each.context_window_tokens:,}" if each.context_window_tokens else "",
            _limits(each.limits),
            f"{each.calls:,}" + (f", {each.failed:,} failed" if each.failed else ""),
            f"{each.share:.0%}" if each.calls else "",
            usd(each.cost_usd) if each.calls else "",
            short_clock(each.last_at) if each.last_at else "",
            each.breaker,
        ]
        for each in found.models
    ]
    put_table(["model", "USD per million", "window", "limits", "calls, 1 h", "share", "cost", "last", "status"], rows)


def _keys(provider: ProviderStanding) -> list[list[str]]:
    """The provider's own row, then its keys'."""
    rows = [[provider.name, "", provider.base_url or provider.dialect, "", _limits(provider.limits), "", "", provider.breaker]]
    for key in provider.keys:
        status = key.breaker if not key.problems else f"{key.breaker}; {'; '.join(key.problems)}"
        limits = _limits(key.limits)
        rows.append([provider.name, key.name, key.source, f"{key.weight:g}", limits, str(key.workers), str(key.calls), status])
    return rows


def _price(amount: Decimal | None) -> str:
    return "?" if amount is None else f"{amount.normalize():f}"


def _limits(limits: dict[str, float]) -> str:
    return ", ".join(f"{value:,.0f} {name.replace('_per_minute', '/min').replace('_per_day', '/day')}" for name, value in limits.items())
