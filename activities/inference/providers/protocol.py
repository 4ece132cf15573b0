"""What every provider adapter is: one call that reads a stream and gives back one normalised response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from workflows.contracts.messages import ModelRequest, ModelResponse


@dataclass(frozen=True, slots=True)
class Progress:
    """What has arrived of a streamed answer so far."""

    events: int
    output_chars: int


class Provider(Protocol):
    """A model provider.

    `complete` raises `StepError` and nothing else for whatever the provider or the network does; the failure class decides
    what happens next. It never retries: Temporal owns retries.
    """

    @property
    def name(self) -> str:
        """The name that model ids carry in front, as in `openai:gpt-5`."""
        ...

    async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        """Send the request, read the answer as a stream, call `on_progress` for each event that arrives."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
