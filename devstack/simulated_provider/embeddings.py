"""The simulated embeddings endpoint: no model, but texts that share words and letters come out near each other, always the same way."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from devstack.simulated_provider.dialect import BadRequestError, Incoming
from devstack.simulated_provider.exchange import Exchange
from devstack.simulated_provider.faults import Fault
from devstack.simulated_provider.openai_dialect import OpenAIDialect
from devstack.simulated_provider.policy import SimulatedRequest
from devstack.simulated_provider.tokens import count_tokens
from workflows.contracts.messages import Message, Role, Usage

DIMENSIONS = 256
"""When the request names none."""
_WORD = re.compile(r"\w+")
_WORD_WEIGHT = 3.0


class EmbeddingsDialect(OpenAIDialect):
    """Reads requests for embeddings as conversations of one text a message, so that limits and faults hold for them too."""

    def parse(self, body: dict[str, Any]) -> Incoming:
        """Understand an embeddings request."""
        if not isinstance(body.get("model"), str):
            raise BadRequestError("you must provide a model parameter")
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise BadRequestError("'input' must be a text, or a list of texts, and none of them empty")
        messages = tuple(Message(role=Role.USER, text=text) for text in texts)
        return Incoming(SimulatedRequest(body["model"], "", messages, ()), stream=False, max_output_tokens=None)


class EmbeddingsExchange(Exchange):
    """One request for embeddings, and its answer."""

    async def _work(self, incoming: Incoming, fault: Fault | None) -> web.StreamResponse:
        body = json.loads(await self.http.read())
        texts = [message.text for message in incoming.request.messages]
        tokens = sum(map(count_tokens, texts))
        self.entry.usage = Usage(input_tokens=tokens)
        self.entry.billed = True
        self.entry.fault = fault.label if fault else None
        await self._wait(incoming.request.model)
        self.entry.status = 200
        data = [
            {"object": "embedding", "index": index, "embedding": embedding(text, body.get("dimensions") or DIMENSIONS)}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": incoming.request.model, "usage": usage}
        return web.json_response(answer, headers=self.headers)


def embedding(text: str, dimensions: int) -> list[float]:
    """The text's words and groups of three letters, each counted at a place that its hash says, as a vector of length 1."""
    vector = [0.0] * dimensions
    for part, weight in _parts(text):
        digest = hashlib.sha256(part.encode()).digest()
        vector[int.from_bytes(digest[:8]) % dimensions] += weight if digest[8] % 2 else -weight
    size = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / size for value in vector]


def _parts(text: str) -> Iterator[tuple[str, float]]:
    words = _WORD.findall(text.lower()) or [text]
    yield from ((word, _WORD_WEIGHT) for word in words)
    letters = f" {' '.join(words)} "
    yield from ((f"~{letters[at : at + 3]}", 1.0) for at in range(len(letters) - 2))
