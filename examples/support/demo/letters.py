"""The end of what is parked: looked at on the command line, the broken other side repaired, all of it redriven at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from client.dead_letters import LetterOptions
from holdfast import FailureClass, Orchestrator
from workflows.contracts.previews import one_line

from .house import House
from .screen import Screen

BROKEN_TOOL = "redirect_order"
"""The tool whose other side, the warehouse, is down until it is repaired."""
SETTLED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.2
BY = "tom"


@dataclass
class Letters:
    """The dead letters of one performance."""

    orchestrator: Orchestrator
    house: House
    tenant: str
    screen: Screen
    redrives: int = 0
    """How many redrives were ordered."""
    _told: set[str] = field(default_factory=set)

    async def tell_new(self) -> None:
        """Say what was parked since the last look."""
        for letter in await self.orchestrator.dead_letters.list(tenant=self.tenant):
            if letter.id not in self._told:
                self._told.add(letter.id)
                self.screen.say(f"{letter.user_id}: parked at {letter.what} ({letter.failure_class}): {one_line(letter.cause)}")

    async def end(self) -> None:
        """Show what is parked, as anybody would look at it; repair what is broken; let go on what that has parked.

        Raises:
            DemoError: the command failed, or the warehouse did not come up.
        """
        self.screen.say("nothing moves any more; $ holdfast dead-letters list")
        for line in (await self.house.command("dead-letters", "list", "--tenant", self.tenant)).splitlines():
            self.screen.quote(line)
        by_the_tool = LetterOptions(tenant=self.tenant, tool=BROKEN_TOOL, failure_class=FailureClass.UNKNOWN_OUTCOME)
        if not await self.orchestrator.dead_letters.count(**by_the_tool):
            return
        await self.house.start_warehouse()
        self.screen.say(f"the warehouse is repaired, and answers at {self.house.warehouse_url}")
        report = await self.orchestrator.dead_letters.bulk(
            by_the_tool, confirmed=True, by=BY, reason="the warehouse was down, so nothing was done; it is up again"
        )
        self.redrives += report.ordered
        self.screen.say(f"bulk redrive of what {BROKEN_TOOL} has parked: {report.matched} fit, {report.ordered} ordered to go on")
        for problem in report.problems:
            self.screen.say(f"{problem.id}: {problem.why}")
        await self._settled(by_the_tool)

    async def _settled(self, wanted: LetterOptions) -> None:
        give_up = time.monotonic() + SETTLED_WITHIN_S
        while any(letter.id in self._told for letter in await self.orchestrator.dead_letters.list(**wanted)):
            if time.monotonic() > give_up:
                self.screen.say(f"some are not settled after {SETTLED_WITHIN_S:.0f} s")
                return
            await asyncio.sleep(LOOK_EVERY_S)
