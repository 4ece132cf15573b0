"""The person of the play: reads the inbox, and says yes or no by a plain Temporal signal, as any program in any language could."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from holdfast import Orchestrator
from state.inbox import Waiting

from .house import DemoError
from .screen import Screen

NAME = "mara"
"""One of the leads in people.yaml."""
YES_UP_TO_USD = Decimal(100)
Question = tuple[str, int, int]
"""Run, step, and the how manieth time that it is asked."""
NO = f"above {YES_UP_TO_USD} USD we send a new one before we pay back; ask for a photo of the damage"


@dataclass
class Lead:
    """Decides by a rule, and is a script: the demo plays unattended. The signals are real."""

    orchestrator: Orchestrator
    temporal: Client
    """A client of the Temporal SDK and nothing else: no class and no converter of Holdfast's."""
    tenant: str
    screen: Screen
    sent: dict[Question, int] = field(default_factory=dict)
    """How often a question was decided on."""

    @property
    def orders(self) -> int:
        """How many orders were given."""
        return sum(self.sent.values())

    async def look(self) -> None:
        """Decide on all that waits.

        Raises:
            DemoError: Temporal has not taken a signal.
        """
        for waiting in await self.orchestrator.inbox.list(tenant=self.tenant):
            if waiting.kind == "approval":
                await self._look_at(waiting)

    async def _look_at(self, waiting: Waiting) -> None:
        question = (waiting.run_id, waiting.step, waiting.asked)
        times = self.sent.get(question, 0)
        if times == 0:
            self.screen.say(f"{waiting.user}: {asked(waiting)}")
        else:
            # A signal has no answer. What the run said to it is in the audit record.
            audit = await self.orchestrator.inbox.decisions(waiting.run_id)
            refused = [each for each in audit if (each.call_id, each.by, each.outcome) == (waiting.call_id, NAME, "refused")]
            if len(refused) < times:
                return
            self.screen.say(f"{waiting.user}: refused ({refused[-1].reason}); once more")
        self.sent[question] = times + 1
        await self._decide(waiting)

    async def _decide(self, waiting: Waiting) -> None:
        signal, body = decision(waiting)
        try:
            await self.temporal.get_workflow_handle(waiting.run_id).signal(signal, body)
        except RPCError as error:
            raise DemoError(f"the signal {signal} to run {waiting.run_id} was not taken: {error}") from error
        self.screen.say(f"{waiting.user}: signal {signal} {json.dumps(body)}")


def decision(waiting: Waiting) -> tuple[str, dict[str, Any]]:
    """The signal, and the JSON that goes with it."""
    body = {"call_id": waiting.call_id, "by": NAME}
    return ("approve", body) if amount_usd(waiting) <= YES_UP_TO_USD else ("reject", body | {"reason": NO})


def asked(waiting: Waiting) -> str:
    """What waits, in words."""
    until = f" until {waiting.until:%Y-%m-%d %H:%M}" if waiting.until else ""
    return (
        f"{waiting.tool} of {amount_usd(waiting):.2f} USD, risk {waiting.risk}, has waited {waiting.age_s:.0f} s for a yes of "
        f"{', '.join(waiting.named) or 'anybody'}{until}"
    )


def amount_usd(waiting: Waiting) -> Decimal:
    """The amount that the waiting call would pay."""
    return Decimal(str(json.loads(waiting.arguments)["amount_usd"]))
