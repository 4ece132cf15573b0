"""Which of our limits a provider means: by its headers it names kinds and figures, by a refusal not even that. Pure."""

from __future__ import annotations

from activities.inference.buckets import Alternative, Bucket, BucketKind
from workflows.contracts.messages import ToldLimit

OWNERS = ("model:", "key:", "provider:")
"""Whose limits a provider can speak of, the most particular first. Limits of tenants and agents are ours alone."""


def meant(alternative: Alternative, told: ToldLimit) -> Bucket | None:
    """Of the limits of its kind that it can mean: the one whose figure is nearest, the more particular first."""
    could = [bucket for owner in OWNERS for bucket in _rates(alternative, owner) if bucket.measure == told.kind.value]
    if told.limit is None or told.limit <= 0:
        return could[0] if could else None
    limit = told.limit
    return min(could, key=lambda bucket: max(bucket.limit, limit) / min(bucket.limit, limit), default=None)


def refusing(alternative: Alternative) -> tuple[Bucket, ...]:
    """The limits that a refusal stands for: the most particular, so that a full model does not stop others of its account."""
    return next((found for owner in OWNERS if (found := _rates(alternative, owner))), ())


def _rates(alternative: Alternative, owner: str) -> tuple[Bucket, ...]:
    buckets = (demand.bucket for demand in alternative.demands)
    return tuple(bucket for bucket in buckets if bucket.kind is BucketKind.RATE and bucket.name.startswith(owner))
