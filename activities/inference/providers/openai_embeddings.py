"""Embeddings through the openai SDK; also for every server that has the same endpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import openai

from activities.inference.providers import failures
from activities.inference.providers.connection import idempotency_header, is_simulated
from activities.inference.providers.embedding import Embedded, Vector
from activities.inference.providers.sdk_provider import SdkProvider
from activities.inference.providers.told_limits import told_limits
from workflows.contracts.messages import ModelRequest, Usage


class OpenAIEmbedder:
    """An embeddings model beside a provider that speaks Chat Completions."""

    def __init__(self, provider: SdkProvider, client: openai.AsyncOpenAI, model: str, dimensions: int | None) -> None:
        self._provider = provider
        self._client = client
        self._model = model
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """The model's name at the provider."""
        return self._model

    @property
    def dimensions(self) -> int | None:
        """What is asked for; only some models can be asked."""
        return self._dimensions

    async def embed(self, texts: Sequence[str], idempotency_key: str) -> Embedded:
        """One vector for each text; asked for as plain numbers, which every server knows."""
        asked: dict[str, Any] = {} if self._dimensions is None else {"dimensions": self._dimensions}
        said = ModelRequest(model=self._model, messages=(), max_output_tokens=1, idempotency_key=idempotency_key)
        with self._provider.translating(said):
            raw = await self._client.embeddings.with_raw_response.create(
                input=list(texts), model=self._model, encoding_format="float", extra_headers=idempotency_header(idempotency_key), **asked
            )
            answer = raw.parse()
            vectors = tuple(tuple(each.embedding) for each in sorted(answer.data, key=lambda each: each.index))
            tokens = answer.usage.prompt_tokens
            if len(vectors) != len(texts) or not all(map(_means_something, vectors)):
                raise failures.unreadable(self._provider.name, "the embeddings are not one vector of finite numbers a text")
        return Embedded(
            vectors,
            Usage(input_tokens=tokens),
            answer.model,
            request_id=raw.headers.get("x-request-id"),
            simulated=is_simulated(raw.http_response),
            told=told_limits(raw.headers),
        )


def _means_something(vector: Vector) -> bool:
    return any(vector) and all(map(math.isfinite, vector))
