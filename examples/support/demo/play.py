"""The demo's course: a run a ticket, a worker killed in the middle, people who decide, a broken tool repaired, the books judged."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from temporalio.client import Client

from devstack.stack import RunningStack
from examples.support.shop_data import ShopData, Ticket
from examples.support.shop_tables import create_shop
from holdfast import HoldfastError, Orchestrator, Run, Settings

from .books import Books, Standing
from .house import DemoError, House, until_agents_are_known
from .lead import Lead
from .letters import Letters
from .options import Options
from .report import Evidence, Proof, TicketRun, judge
from .screen import Screen

LOOK_EVERY_S = 0.4
AIM_EVERY_S = 0.05
ENTRY_AGENT = "triage"


@dataclass
class Play:
    """One performance."""

    options: Options
    tickets: Sequence[Ticket]
    orchestrator: Orchestrator
    house: House
    books: Books
    screen: Screen
    lead: Lead
    letters: Letters
    tenant: str
    """One of its own: effects are shared by business key within a tenant, and the shop is new."""
    runs: dict[str, Run] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    """Ticket → how its run stands, once nothing more happens by itself."""
    kills: list[float] = field(default_factory=list)
    _killing: bool = False
    _standing: Standing = Standing()

    async def perform(self) -> None:
        """Start all, kill once, decide on what waits, repair and redrive what is parked, wait for all.

        Raises:
            DemoError: a worker ended by itself.
        """
        tasks = [asyncio.create_task(self._show()), asyncio.create_task(self._course())]
        try:
            with self.screen.live():
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def standing(self) -> tuple[TicketRun, ...]:
        """Where every ticket stands."""
        return tuple(
            TicketRun(ticket.id, self.runs[ticket.id].id if ticket.id in self.runs else None, self.ended.get(ticket.id))
            for ticket in self.tickets
        )

    def run_ids(self) -> list[str]:
        """The runs of all tickets."""
        return [run.id for run in self.runs.values()]

    async def proof(self) -> Proof:
        """Hold the books against each other."""
        return judge(
            Evidence(
                tickets=[ticket.id for ticket in self.tickets],
                runs=self.standing(),
                billed=await self.house.billed_calls(),
                ledger=await self.books.ledger(self.run_ids()),
                refunds=await self.books.refunds(),
                changes=(*await self.books.changes(), *await self.house.redirections()),
                kills=self.kills,
                people=await self.books.people(self.tenant, ordered=self.lead.orders + self.letters.redrives),
            )
        )

    async def _course(self) -> None:
        ends: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as waits:
            for ticket in self.tickets:
                self.runs[ticket.id] = await self.orchestrator.start(
                    ENTRY_AGENT, ticket.as_message(), user=ticket.id, tenant=self.tenant, idempotency_key=ticket.id
                )
                ends[ticket.id] = waits.create_task(self._wait(ticket.id))
            self.screen.say(f"{len(self.runs)} runs started")
            if self.options.kill:
                await self._kill_once()
            await self._until_still()
            if self._standing.parked:
                await self.letters.end()
                await self._until_still()
                self.screen.say(f"{len(self.ended)} of {len(self.runs)} tickets ended")
            for ticket_id in self._unfinished():
                self.ended[ticket_id] = "parked"
                ends[ticket_id].cancel()

    async def _until_still(self) -> None:
        """Wait until every run has ended or is parked; people decide on what waits meanwhile."""
        while True:
            self._standing = await self.books.standing(self.tenant)
            if self._standing.waiting:
                await self.lead.look()
            if self._standing.parked:
                await self.letters.tell_new()
            unfinished = {self.runs[ticket].id for ticket in self._unfinished()}
            if unfinished <= self._standing.parked and not unfinished & self._standing.waiting:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _unfinished(self) -> list[str]:
        return [ticket for ticket in self.runs if ticket not in self.ended]

    async def _kill_once(self) -> None:
        """Kill the worker after a random number of answers, at a random moment, with calls in the air; prove that it was hit."""
        chance = random.Random(self.options.seed)
        answers = chance.randint(len(self.runs) // 2 + 1, 3 * len(self.runs))
        await self._until_answers(answers)
        await asyncio.sleep(chance.uniform(0, 1))
        flying = await self._until_answers(answers, in_the_air=1)
        if flying is None:
            self.screen.say("nothing moved any more before the kill: nobody was killed")
            return
        self._killing = True
        self.kills.append(await self.house.kill_worker())
        unfinished = len(self.runs) - len(self.ended)
        if not unfinished:
            raise DemoError("the kill hit nothing: no run was unfinished")
        self.screen.say(f"the worker was killed (SIGKILL) with {flying} model calls in the air and {unfinished} runs unfinished")
        await self.house.start_worker()
        self._killing = False
        self.screen.say("another worker was started")

    async def _until_answers(self, answers: int, in_the_air: int = 0) -> int | None:
        """Wait for so many answers, and calls in the air; gives how many are, None when no run goes on by itself any more."""
        while await self._moving():
            states = (await self.books.progress(self.run_ids())).values()
            flying = sum(state.in_the_air for state in states)
            if sum(state.model_calls for state in states) >= answers and flying >= in_the_air:
                return flying
            await asyncio.sleep(AIM_EVERY_S)
        return None

    async def _moving(self) -> bool:
        """Whether any run goes on without a person."""
        self._standing = await self.books.standing(self.tenant)
        return bool({self.runs[ticket].id for ticket in self._unfinished()} - self._standing.waiting - self._standing.parked)

    async def _wait(self, ticket: str) -> None:
        try:
            outcome = await self.runs[ticket].outcome(timeout_s=self.options.timeout_s)
            self.ended[ticket] = outcome.status.value
        except TimeoutError:
            self.ended[ticket] = "running"
        except HoldfastError as error:
            self.ended[ticket] = "failed"
            self.screen.say(f"{ticket}: {error}")

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            worker = self.house.worker
            if worker is not None and worker.ended and not self._killing:
                raise DemoError(f"{worker.plan.name} ended by itself. Its last words:\n{worker.log_tail()}")
            if self.runs:
                states = await self.books.progress(self.run_ids())
                self.screen.show(states, self.standing(), len(self._standing.waiting), len(self._standing.parked))


@contextlib.asynccontextmanager
async def staged(
    options: Options, stack: RunningStack, shop: ShopData, tickets: Sequence[Ticket], folder: Path, screen: Screen
) -> AsyncIterator[Play]:
    """Load the shop, start provider and worker, connect; end them all with the block. The warehouse is down.

    Raises:
        DemoError: a part did not come up.
    """
    await create_shop(stack.database_url, shop)
    queue = f"demo-{secrets.token_hex(3)}"
    house = House(stack, folder, options.model, queue, warehouse=True)
    settings = Settings(
        temporal_address=stack.temporal_address,
        namespace=stack.namespace,
        database_url=stack.database_url,
        ui_url=stack.ui_url,
        task_queue=queue,
    )
    async with contextlib.AsyncExitStack() as exits:
        exits.push_async_callback(house.close)
        await house.start_provider(options.seed)
        await house.start_worker()
        orchestrator = await exits.enter_async_context(Orchestrator.connect(settings))
        pool = await exits.enter_async_context(asyncpg.create_pool(stack.database_url, min_size=1, max_size=3, command_timeout=15))

        async def known() -> bool:
            return ENTRY_AGENT in {agent.name for agent in await orchestrator.agents()}

        await until_agents_are_known(house, known)
        screen.say(f"the warehouse is down: nothing answers at {house.warehouse_url}, which one tool will need")
        temporal = await Client.connect(stack.temporal_address, namespace=stack.namespace)
        lead = Lead(orchestrator, temporal, queue, screen)
        yield Play(options, tickets, orchestrator, house, Books(pool), screen, lead, Letters(orchestrator, house, queue, screen), queue)
