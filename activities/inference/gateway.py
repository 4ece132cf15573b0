"""The one door to the models: every model call of a worker process goes through here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from activities.inference.admission import Admission, Key, Keys
from activities.inference.asking import Answered, Asked, Kept, Refused
from activities.inference.breakers import Breakers
from activities.inference.cache import ResponseCache
from activities.inference.limiter import Limiter
from activities.inference.payment import Means, Paid, Payment
from activities.inference.pressure import Pressure
from activities.inference.providers.protocol import Provider
from activities.inference.routing import Router
from activities.inference.semantic import SemanticCache
from state.pool import Database
from workflows.contracts.provider_settings import Rates
from workflows.contracts.steps import ModelCallRequest


@dataclass(frozen=True, slots=True)
class OneKey:
    """A provider's only connection, where nobody manages keys."""

    provider: Provider
    name: str = ""
    weight: float = 1.0
    limits: Rates = Rates()

    def in_use(self) -> AbstractContextManager[object]:
        """It stays open anyway."""
        return nullcontext()


class FixedKeys:
    """Providers that are open already, each by one connection."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._keys = {name: (OneKey(provider),) for name, provider in providers.items()}

    def keys(self, provider: str) -> Sequence[Key]:
        """The provider's connection, if there is one."""
        return self._keys.get(provider, ())

    def expected(self, provider: str) -> bool:
        """All of them are open already."""
        return False

    async def refused(self, provider: str, key: Key) -> bool:
        """There is no other one."""
        return False


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers share. What is None is not there: calls go without it."""

    limiter: Limiter | None = None
    breakers: Breakers | None = None
    cache: ResponseCache | None = None
    semantic: SemanticCache | None = None
    pressure: Pressure | None = None


class Gateway:
    """Finds what is paid already, reserves, calls through the router's candidates, records.

    Args:
        keys: the open keys by provider, or the open providers by name.
    """

    def __init__(self, database: Database, router: Router, keys: Keys | Mapping[str, Provider], shared: Shared | None = None) -> None:
        self._database = database
        self._shared = shared or Shared()
        self._pressure = self._shared.pressure or Pressure()
        self.configure(router, keys)

    def configure(self, router: Router, keys: Keys | Mapping[str, Provider]) -> None:
        """Take over new settings; calls in the air end with the old ones."""
        known: Keys = FixedKeys(keys) if isinstance(keys, Mapping) else keys
        self._means = Means(
            database=self._database,
            router=router,
            admission=Admission(router.settings, known, self._shared.breakers, self._shared.limiter),
            cache=self._shared.cache,
            semantic=self._shared.semantic,
            pressure=self._pressure,
        )

    @property
    def means(self) -> Means:
        """What calls work with as it is set now."""
        return self._means

    async def pay(self, request: ModelCallRequest, asked: Asked, attempt: int, keep: Callable[[Answered], Kept]) -> Paid | Refused:
        """Give the recorded turn of this (run, step) and its unknown spend, calling a model only if none is recorded yet.

        Raises:
            StepError: no candidate could answer; the class says what happens next.
            UnknownModelError: the agent's model is not known, or has no price.
        """
        return await Payment(self._means, request, asked, attempt, keep).pay()
