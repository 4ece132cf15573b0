"""The keys of one worker: read where the settings say, opened, and opened anew when a secret is rotated."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydantic import SecretStr

from activities.inference.key_sources import Found, Source
from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from workflows.contracts.errors import SettingsError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.provider_settings import KeyEntry, ProviderEntry, Rates

log = structlog.get_logger("holdfast.inference")

LOOK_EVERY_S: Final = 2.0
"""How often variables and files are read again."""
RUN_EVERY_S: Final = 300.0
"""How often commands are run again."""
REFUSED_AGAIN_S: Final = 5.0
"""A command that was run so lately because of a refusal is not run again because of another: it would print the same."""
CLOSE_AFTER_S: Final = 60.0
"""How long a replaced connection stays open unused: a call that was admitted by it may still wait for its slot."""

OnRenewed = Callable[[str, str], None]


@dataclass(slots=True)
class Connection:
    """A provider that was opened by one secret, and how many calls use it now."""

    provider: Provider
    secret: SecretStr | None
    users: int = 0
    replaced_at: float = 0.0

    @contextmanager
    def in_use(self) -> Iterator[Provider]:
        """Keep it open for the length of the block."""
        self.users += 1
        try:
            yield self.provider
        finally:
            self.users -= 1


@dataclass(frozen=True, slots=True)
class OpenKey:
    """A key by the secret that it had when it was asked for."""

    name: str
    weight: float
    limits: Rates
    connection: Connection

    @property
    def provider(self) -> Provider:
        """The connection that uses it."""
        return self.connection.provider

    def in_use(self) -> AbstractContextManager[object]:
        """Keep the connection open for the length of the block, even when the key is rotated meanwhile."""
        return self.connection.in_use()


@dataclass(frozen=True, slots=True)
class KeyState:
    """How a key stands on this worker."""

    provider: str
    key: str
    source: str
    problem: str | None


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one secret, and the connection that was opened by what stood there last."""

    base: ProviderSettings
    key: str
    source: Source | None
    connection: Connection | None = None
    problem: str | None = None
    read_at: float | None = None
    refused_at: float | None = None
    """When a refusal last had it read again."""
    reading: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def pending(self) -> bool:
        """Whether it was never read to the end: its command still runs."""
        return self.read_at is None and self.connection is None


class KeyView:
    """The keys that one state of the settings names."""

    def __init__(self, keyring: Keyring, entries: Mapping[str, Sequence[tuple[KeyEntry | None, Slot]]]) -> None:
        self._keyring = keyring
        self._entries = entries

    def keys(self, provider: str) -> Sequence[OpenKey]:
        """The provider's keys that can be used now; one without a name where the provider wants none."""
        return [
            OpenKey(slot.key, entry.weight if entry else 1.0, entry.limits if entry else Rates(), slot.connection)
            for entry, slot in self._entries.get(provider, ())
            if slot.connection is not None
        ]

    def expected(self, provider: str) -> bool:
        """Whether a key of the provider is being read for the first time."""
        return any(slot.pending for _, slot in self._entries.get(provider, ()))

    async def refused(self, provider: str, key: object) -> bool:
        """See `Keyring.refused`."""
        return isinstance(key, OpenKey) and await self._keyring.refused(provider, key)


class Keyring:
    """Every key of a worker, over all changes of its settings. A secret is known to redaction before it is used, and is written nowhere."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._environ = environ
        self._clock = clock
        self._slots: dict[tuple[ProviderSettings, str, Source | None], Slot] = {}
        self._replaced: list[Connection] = []
        self._on_renewed: list[OnRenewed] = []

    def on_renewed(self, callback: OnRenewed) -> None:
        """Call back with provider and key when a secret has become another one."""
        self._on_renewed.append(callback)

    def view(self, settings: InferenceSettings) -> KeyView:
        """The keys of these settings. Variables and files are read at once, commands by the next `check`; what is not named is closed.

        Raises:
            SettingsError: a key or an address cannot be used; names where it stands. Nothing is changed.
        """
        slots: dict[tuple[ProviderSettings, str, Source | None], Slot] = {}
        entries: dict[str, list[tuple[KeyEntry | None, Slot]]] = {}
        try:
            for name, provider in settings.providers.items():
                for entry in provider.all_keys or (None,):
                    source = Source.of(entry) if entry else None
                    address = (_base(name, provider, source), entry.name if entry else "", source)
                    slot = self._slots.get(address) or self._opened(Slot(*address))
                    slots[address] = slot
                    entries.setdefault(name, []).append((entry, slot))
        except SettingsError:
            self._retire(slot for address, slot in slots.items() if address not in self._slots)
            raise
        self._retire(slot for address, slot in self._slots.items() if address not in slots)
        self._slots = slots
        return KeyView(self, entries)

    async def check(self) -> None:
        """Read again what is due, and close what nobody uses any more. Commands that take long go on beside it."""
        due = [self._start_reading(slot) for slot in self._slots.values() if self._is_due(slot)]
        if due:
            await asyncio.wait(due, timeout=LOOK_EVERY_S)
        before = self._clock() - CLOSE_AFTER_S
        over = [each for each in self._replaced if not each.users and each.replaced_at <= before]
        self._replaced = [each for each in self._replaced if each not in over]
        for connection in over:
            await connection.provider.aclose()

    async def ready(self) -> None:
        """Wait until every command has been run once."""
        await asyncio.gather(*(asyncio.shield(self._start_reading(slot)) for slot in self._slots.values() if slot.pending))

    async def refused(self, provider: str, key: OpenKey) -> bool:
        """Read a refused key's secret again at once; whether it is another one by now, and the call worth repeating."""
        slot = next((each for each in self._slots.values() if each.base.name == provider and each.key == key.name), None)
        if slot is None or slot.source is None:
            return False
        if slot.connection is key.connection and not self._refused_lately(slot):
            await asyncio.shield(self._start_reading(slot))
        return slot.connection is not None and slot.connection is not key.connection

    def states(self) -> list[KeyState]:
        """How every key stands on this worker, by where it is read."""
        return [KeyState(each.base.name, each.key, each.source.place, _problem(each)) for each in self._slots.values() if each.source]

    @property
    def replaced(self) -> int:
        """Connections that are out of use but for the calls in the air."""
        return len(self._replaced)

    async def aclose(self) -> None:
        """Close every connection."""
        for slot in self._slots.values():
            if slot.reading is not None:
                slot.reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await slot.reading
        self._retire(self._slots.values())
        closing, self._slots, self._replaced = self._replaced, {}, []
        for connection in closing:
            await connection.provider.aclose()

    def _opened(self, slot: Slot) -> Slot:
        """Raises SettingsError; a command's key is opened when it was run."""
        if slot.source is None:
            slot.connection = Connection(open_provider(slot.base), None)
        elif slot.source.command is None:
            self._take(slot, slot.source.look(self._environ))
        return slot

    def _is_due(self, slot: Slot) -> bool:
        if slot.source is None:
            return False
        every_s = RUN_EVERY_S if slot.source.command is not None else 0.0
        return slot.read_at is None or self._clock() - slot.read_at >= every_s

    def _refused_lately(self, slot: Slot) -> bool:
        """Whether a read that an earlier refusal asked for is over already, and so lately that another would find the same."""
        if slot.source is None or slot.source.command is None or (slot.reading is not None and not slot.reading.done()):
            return False
        lately = slot.refused_at is not None and self._clock() - slot.refused_at < REFUSED_AGAIN_S
        slot.refused_at = slot.refused_at if lately else self._clock()
        return lately

    def _start_reading(self, slot: Slot) -> asyncio.Task[None]:
        if slot.reading is None or slot.reading.done():
            slot.reading = asyncio.create_task(self._read(slot))
        return slot.reading

    async def _read(self, slot: Slot) -> None:
        if slot.source is None:
            return
        found = await slot.source.read(self._environ)
        try:
            self._take(slot, found)
        except SettingsError as error:
            self._tell(slot, str(error))

    def _take(self, slot: Slot, found: Found) -> None:
        """With what was found: nothing new, a first connection, or one in place of the old. What is lost or broken changes nothing."""
        slot.read_at = self._clock()
        old = slot.connection
        if found.secret is None or (old is not None and old.secret == found.secret):
            self._tell(slot, found.problem)
            return
        slot.connection = Connection(open_provider(slot.base.model_copy(update={"api_key": found.secret})), found.secret)
        self._tell(slot, None)
        if old is not None:
            self._replace(old)
            log.info("key.renewed", provider=slot.base.name, key=slot.key, source=slot.source.place if slot.source else None)
            for callback in self._on_renewed:
                callback(slot.base.name, slot.key)

    def _tell(self, slot: Slot, problem: str | None) -> None:
        """Say once what is wrong with a key."""
        if problem is not None and problem != slot.problem:
            event = "provider.without_key" if slot.connection is None else "key.stays_old"
            variable = slot.source.env if slot.source else None
            log.info(event, provider=slot.base.name, key=slot.key, variable=variable, problem=problem)
        slot.problem = problem

    def _retire(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.connection is not None:
                self._replace(slot.connection)

    def _replace(self, connection: Connection) -> None:
        connection.replaced_at = self._clock()
        self._replaced.append(connection)


def _base(name: str, entry: ProviderEntry, source: Source | None) -> ProviderSettings:
    """All of a provider's connection but its secret."""
    return ProviderSettings(
        name=name,
        dialect=Dialect(entry.dialect),
        base_url=entry.base_url or None,
        key_variable=source.place if source else None,
        prompt_cache=entry.prompt_cache,
        batch_api=entry.batch_api,
    )


def _problem(slot: Slot) -> str | None:
    return "is being read" if slot.pending else slot.problem
