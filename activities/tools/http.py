"""Runs HTTP tools from their definition: arguments into the url, the query or a JSON body; secrets from the environment only."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from workflows.contracts.agents import Effect, HttpCall, ToolSpec
from workflows.contracts.errors import ArgumentsError, FailureClass, StepError, ToolError
from workflows.contracts.redaction import add_secrets
from workflows.contracts.tools import ToolContext

PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SECRET = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 2.0
"""Shorter than servers keep idle connections: a request into one that is being closed is an effect of unknown outcome."""
ERROR_CHARS = 500
BODY_LIMIT_BYTES = 8 * 1024 * 1024
KEY_SAFE = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.ProxyError)
TRY_AGAIN = frozenset({408, 425, 429})


class HttpToolError(Exception):
    """The other side did not answer as it should; whether it acted is not known."""


class HttpRunner:
    """Calls HTTP tools over one pool of connections."""

    def __init__(self, environ: Mapping[str, str] = os.environ, client: httpx2.AsyncClient | None = None) -> None:
        self._environ = environ
        self._client = client or httpx2.AsyncClient(
            follow_redirects=False, limits=httpx2.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_S)
        )

    def ready(self, spec: ToolSpec) -> ReadyHttp:
        """The tool with its secrets filled in.

        Raises:
            StepError: an environment variable is not set on this worker; nothing was sent.
        """
        if spec.http is None:
            raise StepError(f"Tool {spec.name} has no http part in its definition.", failure_class=FailureClass.CALLER)
        headers = {name: SECRET.sub(lambda match: self._secret(spec, match[1]), value) for name, value in spec.http.headers.items()}
        return ReadyHttp(self._client, spec, spec.http, headers)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _secret(self, spec: ToolSpec, name: str) -> str:
        value = self._environ.get(name, "").strip()
        if not value:
            raise StepError(
                f"Tool {spec.name} needs the environment variable {name}, which is not set on this worker: set it and redrive.",
                failure_class=FailureClass.CALLER,
                code="no_secret",
            )
        add_secrets([value])
        return value


class ReadyHttp:
    """One HTTP tool with its secrets."""

    can_check = False

    def __init__(self, client: httpx2.AsyncClient, spec: ToolSpec, call: HttpCall, headers: Mapping[str, str]) -> None:
        self._client = client
        self._spec = spec
        self._call = call
        self._headers = headers

    def read(self, raw: str) -> dict[str, Any]:
        """The arguments as the model wrote them; that they fit the schema was judged when the model asked for the call."""
        try:
            arguments = json.loads(raw or "{}")
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # NaN and half surrogates pass Python's parser, and no other
            raise ArgumentsError(f"the arguments are not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise ArgumentsError("the arguments must be one JSON object")
        fill(self._call.url, arguments)
        return arguments

    def argument(self, arguments: dict[str, Any], name: str) -> Any:
        """One of the arguments."""
        return arguments.get(name)

    def known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are."""
        return dict(arguments)

    async def check(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        """Nothing: an HTTP tool has no check."""
        return None

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """The response's text.

        Raises:
            ToolError: the other side refused, or was never reached: nothing was done.
            HttpToolError: it failed in a way that leaves open whether it acted.
        """
        request = self._request(arguments, context)
        try:
            response = await self._client.send(request, stream=True)
        except NEVER_SENT as error:
            if self._spec.effect is Effect.ONCE:
                raise ToolError(f"{self._call.method} was never sent: {_said(error)}") from error
            raise HttpToolError(_said(error)) from error
        except httpx2.HTTPError as error:
            raise HttpToolError(_said(error)) from error
        try:
            text = await _text(response)
        except httpx2.HTTPError as error:
            raise HttpToolError(f"the answer broke off: {_said(error)}") from error
        finally:
            await response.aclose()
        self._judge(response, text)
        return text

    def _request(self, arguments: dict[str, Any], context: ToolContext) -> httpx2.Request:
        filled, rest = fill(self._call.url, arguments)
        url, body, headers = httpx2.URL(filled), None, dict(self._headers)
        given = {name.lower() for name in headers}
        if self._call.body == "json":
            body = json.dumps(rest, ensure_ascii=False).encode()
            if "content-type" not in given:
                headers["Content-Type"] = "application/json"
        elif rest:
            url = url.copy_merge_params({name: _many(value) for name, value in rest.items() if value is not None})
        if self._spec.effect is not Effect.PURE and "idempotency-key" not in given:
            headers["Idempotency-Key"] = quote(context.idempotency_key, safe=KEY_SAFE)
        limits = httpx2.Timeout(self._spec.timeout_s, connect=min(CONNECT_TIMEOUT_S, self._spec.timeout_s * 0.8))
        return self._client.build_request(self._call.method, url, content=body, headers=headers, timeout=limits)

    def _judge(self, response: httpx2.Response, text: str) -> None:
        status = response.status_code
        if status < 300:
            return
        said = f"{self._call.method} answered {status}: {text[:ERROR_CHARS]}"
        if 300 <= status < 400:
            said = f"{self._call.method} answered {status}, a redirect to another address, which is not followed"
        refused = 400 <= status < 500 and (status not in TRY_AGAIN or self._spec.effect is Effect.ONCE)
        if refused or (status < 400 and self._spec.effect is Effect.PURE):
            raise ToolError(said)
        raise HttpToolError(said)


def fill(url: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The url with its places filled, percent-encoded, and the arguments that are left.

    Raises:
        ArgumentsError: an argument of the address is missing, or would lead out of its place in the path.
    """
    left = dict(arguments)
    path_ends = url.find("?") if "?" in url else len(url)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if arguments.get(name) is None:
            raise ArgumentsError(f"{name}: is missing, and is part of the address")
        left.pop(name, None)
        text = _plain(arguments[name])
        if match.start() < path_ends and text in {"", ".", ".."}:
            raise ArgumentsError(f"{name}: cannot be {text!r}, it is part of the address")
        return quote(text, safe="")

    return PLACE.sub(value, url), left


def wrong_url(url: str) -> str | None:
    """Why a definition's url cannot be used, or None. The server is the definition's to choose, never the model's."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return "must begin with https:// or http:// and a server"
    if PLACE.search(parts.netloc):
        return "must not let an argument choose the server"
    if SECRET.search(url):
        return "cannot hold a secret, because addresses are logged: put it into a header"
    return None


async def _text(response: httpx2.Response) -> str:
    body = bytearray()
    cut = False
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            cut = True
            del body[BODY_LIMIT_BYTES:]
            break
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    try:
        text = body.decode(response.encoding or "utf-8", errors="replace" if cut else "strict")
    except (UnicodeDecodeError, LookupError):
        return f"[{len(body)} bytes of {kind or 'unknown type'} that are no text]"
    return f"{text}\n[cut here: the response is larger than {BODY_LIMIT_BYTES} bytes]" if cut else text


def _many(value: Any) -> str | list[str]:
    return [_plain(each) for each in value] if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
