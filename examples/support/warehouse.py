"""The warehouse that packs pending orders: a service of its own, reached over HTTP, which may be down when it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp

TIMEOUT_S = 5.0
_NOT_FOUND = 404


class Warehouse:
    """The warehouse as the tools see it. Without an address the shop packs its orders itself, and nobody needs to be told."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Warehouse]:
        """Connections to the warehouse at this address for as long as the context lasts."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
            yield cls(url, http)

    async def redirect(self, order_id: str, address: dict[str, str], key: str) -> None:
        """Have an order packed for another address.

        Raises:
            aiohttp.ClientError, TimeoutError: it did not answer, or answered with an error; whether it has done it nobody knows.
        """
        if self._url:
            wanted = {"order_id": order_id, "address": address}
            async with self._http.post(f"{self._url}/redirections", params={"key": key}, json=wanted) as answer:
                answer.raise_for_status()

    async def was_told(self, key: str) -> bool:
        """Whether it has redirected an order under this key; raises as `redirect` does."""
        if not self._url:
            return False
        async with self._http.get(f"{self._url}/redirections", params={"key": key}) as answer:
            if answer.status == _NOT_FOUND:
                return False
            answer.raise_for_status()
            return True
