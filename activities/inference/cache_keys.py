"""What makes two requests the same to the response cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from state import transcripts
from state.response_cache import CacheKey
from workflows.contracts import tags
from workflows.contracts.agents import Cache
from workflows.contracts.messages import Message, ModelRequest, Role

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as far as answers are kept apart by it."""

    tenant: str
    agent: str
    user: str | None = None


def cache_key(request: ModelRequest, model: str, cache: Cache, asker: Asker) -> CacheKey | None:
    """The key of a request; None when its answer must not be kept: an agent keeps answers by user, and there is none.

    The same are requests that show a model the same: run, step and the ids of tool calls do not count, nor the order of fields in
    a call's arguments. `model` is the tier or model that was asked for.
    """
    scope = _scope(cache, asker)
    if scope is None:
        return None
    frame = {
        "scope": scope,
        "model": model,
        "tools": [tool.model_dump(mode="json") for tool in request.tools],
        "output_schema": request.output_schema,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
    }
    said = _canonical(request.messages)
    text = _last_words(request.messages)
    return CacheKey(
        digest=_digest([frame, said]),
        tenant=None if cache.scope == "all" else asker.tenant,
        agent=asker.agent,
        model=model,
        ttl_s=cache.ttl_s,
        tags=tags.filled(cache.tags, {"tenant": asker.tenant, "user": asker.user}),
        frame=None if text is None else _digest([frame, asker.tenant, said[:-1], _numbers(text)]),
        text=text or "",
    )


def _scope(cache: Cache, asker: Asker) -> list[str] | None:
    match cache.scope:
        case "all":
            return ["all"]
        case "tenant":
            return ["tenant", asker.tenant]
        case "agent":
            return ["agent", asker.tenant, asker.agent]
        case "user":
            return None if asker.user is None else ["user", asker.tenant, asker.agent, asker.user]


def _canonical(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages with their call ids replaced by the order in which they come: ids are drawn anew in every run."""
    places: dict[str, int] = {}
    said = []
    for message in messages:
        calls = [[places.setdefault(call.call_id, len(places)), call.name, _arguments(call.arguments)] for call in message.tool_calls]
        answers = None if message.call_id is None else places.setdefault(message.call_id, len(places))
        said.append({"role": message.role.value, "text": message.text, "calls": calls, "answers": answers, "error": message.is_error})
    return said


def _arguments(text: str) -> Any:
    try:
        return ["json", json.dumps(json.loads(text), sort_keys=True)]
    except (ValueError, RecursionError):
        return ["text", text]


def _numbers(text: str) -> list[str]:
    """Its words with a digit: two requests may mean nearly the same and be about another order, date or sum."""
    return [word for word in _WORDS.findall(text.lower()) if any(character.isdigit() for character in word)]


def _last_words(messages: Sequence[Message]) -> str | None:
    """What the user has said last, when that is what is to be answered."""
    if not messages or messages[-1].role is not Role.USER:
        return None
    return transcripts.clean(messages[-1]).text


def _digest(value: Any) -> str:
    canonical = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
