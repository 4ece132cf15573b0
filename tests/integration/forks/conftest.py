"""Runs to fork and to bring back to life: a scripted model that keeps what it was asked, tools that count what they did."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from activities.inference.providers.scripted import Script, ScriptedAnswer, ScriptedModel
from client.orchestrator import Orchestrator
from client.run import Run
from devstack.stack import RunningStack
from testkit.environment import PRICE, AgentEnvironment, open_environment
from workflows.contracts.provider_settings import ModelSettings

AGENTS = Path(__file__).with_name("agents")
WITHIN_S = 40.0


@dataclass(frozen=True)
class Office:
    """An environment with what its tools did."""

    env: AgentEnvironment
    model: ScriptedModel
    folder: Path

    @property
    def holdfast(self) -> Orchestrator:
        return self.env.holdfast

    async def ended(self, agent: str, said: str, **options: Any) -> Run:
        """A run that has its answer."""
        run = await self.env.start(agent, said, **options)
        await run.result(timeout_s=WITHIN_S)
        return run

    def done(self, word: str = "") -> list[str]:
        """What the tools did, by the tool's name."""
        path = self.folder / "done"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(word)]


class Open(Protocol):
    """Opens an office in which the model gives these answers."""

    async def __call__(self, *answers: Script, price: ModelSettings = PRICE) -> Office: ...


@pytest.fixture
async def opened(stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    monkeypatch.setenv("FORKS_FOLDER", str(tmp_path))
    async with contextlib.AsyncExitStack() as exits:

        async def open_one(*answers: Script, price: ModelSettings = PRICE) -> Office:
            model = ScriptedModel(answers)
            env = await exits.enter_async_context(open_environment(stack, agents=[AGENTS], model=model, price=price))
            return Office(env, model, tmp_path)

        yield open_one


def calls(*given: tuple[str, dict[str, Any]]) -> ScriptedAnswer:
    """An answer that calls several tools side by side."""
    return ScriptedAnswer(calls=given)
