"""The simulated provider: a loopback server that speaks both dialects, enforces limits, makes faults and journals everything."""

from __future__ import annotations

import asyncio
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
from devstack.simulated_provider.embeddings import EmbeddingsDialect, EmbeddingsExchange
from devstack.simulated_provider.exchange import Exchange
from devstack.simulated_provider.faults import Fault, FaultTable
from devstack.simulated_provider.journal import Journal, JournalEntry
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import ANY_MODEL, Limits, RateLimiter
from devstack.simulated_provider.openai_batches import add_openai_batch_routes
from devstack.simulated_provider.openai_dialect import OpenAIDialect
from devstack.simulated_provider.outage import Outage, OutageSwitch
from devstack.simulated_provider.policy import Policy

HOST = "127.0.0.1"
MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class SimulatedProvider:
    """A running simulated provider.

    Args:
        policy: what the model answers; without one it says that it is simulated.
        latency: by model name or `*`.
        limits: by model name, `*` (each model), `key:` and a key's last four characters, `key:*` (each key), or `account` (all together).
        keys: API keys that are accepted; None accepts every key that is not empty.
        changes: seconds after the start, and the limits that come into force then.
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
    changes: list[tuple[float, Mapping[str, Limits]]] = field(default_factory=list)
    faults: FaultTable = field(default_factory=FaultTable)
    limiter: RateLimiter = field(default_factory=RateLimiter)
    outages: OutageSwitch = field(default_factory=OutageSwitch)
    requests: Journal = field(default_factory=Journal)
    answerer: Answerer = field(init=False)
    batches: Batches = field(init=False)
    random: Random = field(init=False)
    id_prefix: str = field(default_factory=lambda: f"sim-req-{secrets.token_hex(4)}")
    _runner: web.AppRunner | None = None
    _site: web.TCPSite | None = None
    _later: set[asyncio.Task[None]] = field(default_factory=set)

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

    def change_limits(self, limits: Mapping[str, Limits], after_s: float = 0.0) -> None:
        """Put new limits in force, at once or some seconds later; what was used stays used."""
        if not after_s:
            self.limiter.change(limits)
            return

        async def change() -> None:
            self.limiter.change(limits)

        self._do_later(after_s, change)

    async def begin_outage(self, outage: Outage) -> None:
        """Let every call fail from now on, until `for_s` is over or `end_outage`."""
        await self.end_outage()
        self.outages.on(outage)
        if outage.kind == "unreachable":
            await self._hang_up()
            if outage.for_s is not None:
                self._do_later(outage.for_s, lambda: self._end_if_still(outage))

    async def end_outage(self) -> None:
        """Answer again; does nothing when no outage is in force."""
        self.outages.off()
        if self._runner is not None and self._site is None:
            await self._listen(self._runner)

    def latency_of(self, model: str) -> Latency:
        """The latency of the next call of this model."""
        found = self.latency.get(model) or self.latency.get(ANY_MODEL) or Latency()
        return found.draw(self.random)

    async def start(self) -> None:
        """Listen on the loopback interface; port 0 takes a free one."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._handler(OpenAIDialect()))
        app.router.add_post("/v1/embeddings", self._handler(EmbeddingsDialect(), EmbeddingsExchange))
        app.router.add_post("/v1/messages", self._handler(AnthropicDialect()))
        add_openai_batch_routes(app, self)
        add_anthropic_batch_routes(app, self)
        add_control_routes(app, self)
        # A client that hangs up cancels its handler: that is how the journal knows.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await self._listen(self._runner)
        for after_s, limits in self.changes:
            self.change_limits(limits, after_s)

    async def stop(self) -> None:
        """Hang up on whoever is connected and close the journal."""
        for task in self._later:
            task.cancel()
        self.batches.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = self._site = None
        self.requests.close()

    async def _end_if_still(self, outage: Outage) -> None:
        if self.outages.outage is outage:
            await self.end_outage()

    async def _listen(self, runner: web.AppRunner) -> None:
        self._site = web.TCPSite(runner, HOST, self.port, backlog=1024)
        await self._site.start()
        self.port = runner.addresses[0][1]

    async def _hang_up(self) -> None:
        """Listen no more; connections close as soon as what is in the air on them is answered."""
        if self._runner is None or self._site is None or self._runner.server is None:
            return
        await self._site.stop()
        self._site = None
        for connection in self._runner.server.connections:
            if connection._current_request is None:  # nothing public tells an idle one, and `close` leaves it open
                connection.force_close()
            else:
                connection.close()

    def _do_later(self, after_s: float, act: Callable[[], Awaitable[None]]) -> None:
        async def wait_and_act() -> None:
            await asyncio.sleep(after_s)
            await act()

        task = asyncio.ensure_future(wait_and_act())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _handler(self, dialect: Dialect, exchange: type[Exchange] = Exchange) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(http: web.Request) -> web.StreamResponse:
            entry = self.requests.begin(dialect.name, self.id_prefix)
            return await exchange(self, dialect, http, entry).run()

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
