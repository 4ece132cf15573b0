"""What an embeddings model is here: texts in, one vector a text out; near vectors for texts that mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from workflows.contracts.messages import ToldLimit, Usage

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of some texts, in their order, and what they took."""

    vectors: tuple[Vector, ...]
    usage: Usage
    model: str
    request_id: str | None = None
    simulated: bool = False
    told: tuple[ToldLimit, ...] = ()
    """What the provider said of its limits."""


class Embedder(Protocol):
    """One embeddings model of one provider. Like a `Provider` it raises `StepError` and nothing else, and never retries."""

    @property
    def name(self) -> str:
        """The model's name at the provider."""
        ...

    @property
    def dimensions(self) -> int | None:
        """How long its vectors are asked to be; None: as long as the model makes them."""
        ...

    async def embed(self, texts: Sequence[str], idempotency_key: str) -> Embedded:
        """One vector for each text."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A provider that has embeddings models."""

    def embedder(self, model: str, dimensions: int | None) -> Embedder:
        """One of them, over the provider's own connections."""
        ...
