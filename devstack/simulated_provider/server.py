"""The simulated provider: a loopback server that speaks both dialects, enforces limits, makes faults and journals everything."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from aiohttp import web

from devstack.simulated_provider.answering import Answerer, plain_policy
from devstack.simulated_provider.anthropic_batches import add_anthropic_batch_routes
from devstack.simulated_provider.anthropic_dialect import AnthropicDialect
from devstack.simulated_provider.batches import Batches
from devstack.simulated_provider.control import add_control_routes
from devstack.simulated_provider.dialect import Dialect
from devstack.simulated_provider.exchange import Exchange
from devstack.simulated_provider.faults import Fault, FaultTable
from devstack.simulated_provider.journal import Journal, JournalEntry
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import ANY_MODEL, Limits, RateLimiter
from devstack.simulated_provider.openai_batches import add_openai_batch_routes
from devstack.simulated_provider.openai_dialect import OpenAIDialect
from devstack.simulated_provider.policy import Policy

HOST = "127.0.0.1"
MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class SimulatedProvider:
    """A running simulated provider.

    Args:
        policy: what the model answers; without one it says that it is simulated.
        limits: by model name, `*` (each model) or `account` (all together).
        latency: by model name or `*`.
        keys: API keys that are accepted; None accepts every key that is not empty.
        journal_path: also write the journal there, one JSON line a request.
        batch_s: seconds that a batch takes.
    """

    policy: Policy = plain_policy
    limits: Mapping[str, Limits] = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)
    keys: frozenset[str] | None = None
    journal_path: Path | None = None
    port: int = 0
    seed: int = 0
    batch_s: float = 0.0
    faults: FaultTable = field(default_factory=FaultTable)
    limiter: RateLimiter = field(default_factory=RateLimiter)
    requests: Journal = field(default_factory=Journal)
    answerer: Answerer = field(init=False)
    batches: Batches = field(init=False)
    random: Random = field(init=False)
    id_prefix: str = field(default_factory=lambda: f"sim-req-{secrets.token_hex(4)}")
    _runner: web.AppRunner | None = None

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311  reproducible chance, not a secret
        self.requests.path = self.journal_path
        self.limiter.change(self.limits)
        self.answerer = Answerer(self.policy, self.faults)
        self.batches = Batches(self, self.batch_s)

    @property
    def url(self) -> str:
        """The server's root."""
        return f"http://{HOST}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for an Anthropic client."""
        return self.url

    def journal(self) -> Sequence[JournalEntry]:
        """Every request so far, in order; those in the air have no `finished_at`."""
        return tuple(self.requests.entries)

    async def idle(self) -> None:
        """Wait until no request is in the air: then every journal entry is closed."""
        await self.requests.idle.wait()

    def add_fault(self, fault: Fault) -> None:
        """Put a rule in force, behind those that are there."""
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Put all rules out of force."""
        self.faults.clear()

    def fired(self, name: str) -> int:
        """How often the rules of this name fired."""
        return sum(count for fault, count in self.faults.fired() if fault.label == name)

    def change_limits(self, limits: Mapping[str, Limits]) -> None:
        """Put new limits in force at once; what was used stays used."""
        self.limiter.change(limits)

    def latency_of(self, model: str) -> Latency:
        """The latency of the next call of this model."""
        found = self.latency.get(model) or self.latency.get(ANY_MODEL) or Latency()
        return found.draw(self.random)

    async def start(self) -> None:
        """Listen on the loopback interface; port 0 takes a free one."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._handler(OpenAIDialect()))
        app.router.add_post("/v1/messages", self._handler(AnthropicDialect()))
        add_openai_batch_routes(app, self)
        add_anthropic_batch_routes(app, self)
        add_control_routes(app, self)
        # A client that hangs up cancels its handler: that is how the journal knows.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Hang up on whoever is connected and close the journal."""
        self.batches.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.requests.close()

    def _handler(self, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(http: web.Request) -> web.StreamResponse:
            entry = self.requests.begin(dialect.name, self.id_prefix)
            return await Exchange(self, dialect, http, entry).run()

        return handle


@asynccontextmanager
async def simulated_provider(
    policy: Policy = plain_policy,
    *,
    faults: Sequence[Fault] = (),
    limits: Mapping[str, Limits] | None = None,
    latency: Mapping[str, Latency] | None = None,
    keys: frozenset[str] | None = None,
    journal_path: Path | None = None,
    port: int = 0,
    batch_s: float = 0.0,
) -> AsyncIterator[SimulatedProvider]:
    """A simulated provider inside this process, stopped at the end of the block."""
    provider = SimulatedProvider(
        policy=policy,
        limits=limits or {},
        latency=dict(latency or {}),
        keys=keys,
        journal_path=journal_path,
        port=port,
        batch_s=batch_s,
    )
    for fault in faults:
        provider.add_fault(fault)
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()
