"""A gateway over keys that are read from variables, files and commands, before a simulated provider that knows which it accepts."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from activities.inference import asking
from activities.inference.asking import Answered, Kept
from activities.inference.breakers import Breakers
from activities.inference.gateway import Gateway, Shared
from activities.inference.limiter import Limiter
from activities.inference.opening import ConfiguredInference
from devstack.simulated_provider.server import SimulatedProvider
from state import model_calls, runs, transcripts
from state.pool import Database
from state.runs import NewRun
from tests.integration.inference.breaker_world import SETTINGS as BREAKER_SETTINGS
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.inference import InferenceSettings, LimiterSettings
from workflows.contracts.messages import Message, Role
from workflows.contracts.provider_settings import KeyEntry, ModelSettings, ProviderEntry
from workflows.contracts.steps import ModelCallRequest

MAIN, SPARE, NEW = (f"key-of-no-worth-{uuid.uuid4().hex}-{name}" for name in ("main", "sprx", "newx"))
"""The simulated provider's journal tells a key by its last four characters."""


def keep(answered: Answered) -> Kept:
    """The turn, and the row of the transcript, that are recorded with an answer."""
    return Kept({"text": answered.response.text}, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


@dataclass
class KeyWorld:
    """One worker's inference layer."""

    database: Database
    sim: SimulatedProvider
    breakers: Breakers
    inference: ConfiguredInference
    gateway: Gateway
    provider: str
    now_s: list[float] = field(default_factory=lambda: [0.0])

    def settings(self, *keys: KeyEntry) -> InferenceSettings:
        """A single provider with these keys."""
        model = f"{self.provider}:m"
        price = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1), context_window_tokens=10_000)
        entry = ProviderEntry(dialect="openai", base_url=self.sim.openai_url, keys=keys)
        return InferenceSettings(providers={self.provider: entry}, tiers={"smart": [model]}, models={model: price})

    def take(self, *keys: KeyEntry) -> None:
        """Go on by these keys, as after a change of the configuration."""
        self.gateway.configure(*self.inference.take(self.settings(*keys)))

    async def call(self) -> str:
        """One step of a run of its own; which key answered it."""
        run_id = f"keys-{uuid.uuid4().hex[:12]}"
        agent = AgentDefinition(name="support", instructions="Help.", model="smart")
        await runs.create(
            self.database,
            NewRun(run_id, "default", "support", "hash", None, None, "body", Decimal(5)),
            Message(role=Role.USER, text="hello"),
        )
        request = ModelCallRequest(run_id=run_id, step=1, agent=agent.pin(), tenant="default")
        await self.gateway.pay(request, asking.whole(agent, ()), 1, keep)
        assert [charge.state for charge in await model_calls.charges(self.database, run_id)][-1] == "recorded"
        return str(await self.database.fetchval("select key from model_calls where run_id = $1 and state = 'recorded'", run_id))

    @property
    def asked(self) -> list[tuple[str, int | None]]:
        """(end of the key, status) of every request that the provider has seen."""
        return [(entry.key, entry.status) for entry in self.sim.journal()]

    def key_scope(self, key: str) -> str:
        return f"key:{self.provider}/{key}"


@contextlib.asynccontextmanager
async def key_world(
    database: Database, sim: SimulatedProvider, environ: Mapping[str, str], keys: Sequence[KeyEntry], **options: Any
) -> AsyncIterator[KeyWorld]:
    """A worker whose clock for reading keys the test moves; its breakers follow the database by themselves."""
    now_s = [0.0]
    async with contextlib.AsyncExitStack() as exits:
        inference = await exits.enter_async_context(contextlib.aclosing(ConfiguredInference(environ, clock=lambda: now_s[0])))
        breakers = await exits.enter_async_context(Breakers(database, BREAKER_SETTINGS, worker=f"keys-{uuid.uuid4().hex[:6]}", **options))
        limiter = await exits.enter_async_context(Limiter(database, LimiterSettings()).open())
        inference.keyring.on_renewed(breakers.renewed)
        shared = Shared(limiter=limiter, breakers=breakers)
        world = KeyWorld(database, sim, breakers, inference, Gateway(database, *inference.take(InferenceSettings()), shared), "", now_s)
        world.provider = f"p{uuid.uuid4().hex[:8]}"
        world.take(*keys)
        await inference.keyring.ready()
        yield world


def by_file(folder: Path, name: str, secret: str, **options: Any) -> KeyEntry:
    """A key in a file."""
    path = folder / name
    path.write_text(secret + "\n", encoding="utf-8")
    return KeyEntry(name=name, file=str(path), **options)


def by_command(folder: Path, name: str, secret: str) -> KeyEntry:
    """A key that a program prints; it notes every time it is run."""
    (folder / f"{name}.secret").write_text(secret, encoding="utf-8")
    script = 'echo run >> "$0.runs"; cat "$0.secret"'
    return KeyEntry(name=name, command=("sh", "-c", script, str(folder / name)))


def runs_of(folder: Path, name: str) -> int:
    """How often the program was run."""
    return len((folder / f"{name}.runs").read_text().split())
