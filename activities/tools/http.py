"""Runs HTTP tools from their definition: arguments into the url, the query or a JSON body; secrets from the environment only."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from workflows.contracts.agents import HttpCall, ToolSpec
from workflows.contracts.errors import ArgumentsError, ToolError
from workflows.contracts.redaction import add_secrets

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
ERROR_CHARS = 500
MAX_BODY_BYTES = 8 * 1024 * 1024


class HttpRunner:
    """Calls HTTP tools over one pool of connections."""

    def __init__(self, environ: Mapping[str, str] = os.environ, client: httpx2.AsyncClient | None = None) -> None:
        self._environ = environ
        self._client = client or httpx2.AsyncClient(follow_redirects=False)

    async def run(self, spec: ToolSpec, arguments: dict[str, Any], idempotency_key: str) -> str:
        """The response's text.

        Raises:
            ToolError: a status of 400 or above, with the head of the body; told to the model.
            httpx2.HTTPError: no response; whether the other side acted is not known.
        """
        call = spec.http
        if call is None:
            raise ToolError(f"{spec.name} has no http part in its definition.")
        url, rest = _fill(call.url, arguments)
        body = json.dumps(rest).encode() if call.body == "json" else None
        headers = self._headers(call) | {"Idempotency-Key": idempotency_key}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        params = None if call.body == "json" or not rest else {name: _plain(value) for name, value in rest.items()}
        request = self._client.build_request(call.method, url, params=params, content=body, headers=headers, timeout=spec.timeout_s)
        response = await self._client.send(request, stream=True)
        try:
            text = await _read(response)
        finally:
            await response.aclose()
        if response.status_code >= 400:
            raise ToolError(f"{call.method} answered {response.status_code}: {text[:ERROR_CHARS]}")
        return text

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _headers(self, call: HttpCall) -> dict[str, str]:
        return {name: _SECRET.sub(self._secret, value) for name, value in call.headers.items()}

    def _secret(self, match: re.Match[str]) -> str:
        value = self._environ.get(match[1])
        if not value:
            raise ToolError(f"The environment variable {match[1]} is not set on this worker.")
        add_secrets([value])
        return value


async def _read(response: httpx2.Response) -> str:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ToolError(f"The response is larger than {MAX_BODY_BYTES} bytes; it was not read to its end.")
    return body.decode(response.encoding or "utf-8", errors="replace")


def _fill(url: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The url with its places filled, percent-encoded, and the arguments that are left."""
    left = dict(arguments)

    def fill(match: re.Match[str]) -> str:
        if match[1] not in arguments:
            raise ArgumentsError(f"The argument {match[1]} is missing: it is part of the address.")
        left.pop(match[1], None)
        return quote(_plain(arguments[match[1]]), safe="")

    return _PLACE.sub(fill, url), left


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
