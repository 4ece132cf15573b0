"""What the tools of `agents/` act on: in this process, so that a test can hold them up, make them fail, and count what they did."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from workflows.contracts.hooks import Ask, Deny


@dataclass
class Till:
    """One test's world."""

    did: list[str] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fails: list[BaseException] = field(default_factory=list)
    """What the next attempts raise, one each."""
    before: Ask | Deny | BaseException | None = None
    after: Ask | Deny | BaseException | None = None

    async def act(self, what: str) -> None:
        self.began.set()
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.did.append(what)


TILL = Till()


def open_till(*, gate: bool = True) -> Till:
    """A new world for a test; with `gate` False its tools wait until the test sets it."""
    TILL.__dict__.update(Till().__dict__)
    if gate:
        TILL.gate.set()
    return TILL
