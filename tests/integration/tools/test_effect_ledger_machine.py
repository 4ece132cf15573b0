"""The ledger under any order of starts, deaths, lost answers, checks and rulings: an effect is done at most once."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from devstack.stack import RunningStack
from state import effects, transcripts
from state.effects import Begun, Claim
from state.pool import Database
from workflows.contracts.agents import AgentDefinition, Effect, ToolSpec
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.steps import ToolRunRequest

PIN = AgentDefinition(name="tester", instructions="Test.").pin()
KEYS = ("W1", "W2")
CALLS = 4
ROUNDS = 20
"""How often more is tried when chance has left out an outcome. Each round has a seed of its own: hypothesis is not random under CI."""


@dataclass
class Call:
    """A tool call of a run: one step, tried by one attempt after the other until it has a result."""

    request: ToolRunRequest
    key: str
    rulings: int = 0
    """How often a person has said "do it again"; every later attempt of the step carries it."""
    parked: bool = False
    ended: bool = False


@dataclass
class Running:
    """An attempt that was told to go."""

    call: Call
    claim: Claim
    begun: Begun
    acted: bool = False


@dataclass
class World:
    """What really happened, which the ledger cannot see."""

    done: dict[str, int] = field(default_factory=dict)


class LedgerMachine(RuleBasedStateMachine):
    """Attempts begin, act, end or die; persons and checks tell the truth."""

    loop: asyncio.AbstractEventLoop
    database: Database
    effect: Effect
    seen: set[str]
    call_count = CALLS

    def __init__(self) -> None:
        super().__init__()
        self.tokens = itertools.count()
        self.tenant = f"machine-{uuid.uuid4().hex[:10]}"
        self.spec = ToolSpec(name="pay", description="Pay.", parameters={}, effect=self.effect, key="order")
        self.world = World({f"order={key}": 0 for key in KEYS})
        self.running: list[Running] = []
        self.calls = [self._new_call(number) for number in range(self.call_count)]
        self._wait(self._write_runs())

    def _wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _new_call(self, number: int) -> Call:
        run_id = f"{self.tenant}-{number}"
        request = ToolRunRequest(run_id=run_id, step=2, model_step=1, call_id="c", name="pay", agent=PIN, tenant=self.tenant)
        return Call(request, f"order={KEYS[number % len(KEYS)]}")

    async def _write_runs(self) -> None:
        async with self.database.transaction() as connection:
            for call in self.calls:
                run_id, order = call.request.run_id, call.key.partition("=")[2]
                await connection.execute(
                    "insert into runs (run_id, tenant, agent, definition_hash, body_hash, cost_limit_usd) values ($1, $2, 'a', 'h', '', 1)",
                    *(run_id, self.tenant),
                )
                asked = ToolCall(call_id="c", name="pay", arguments=f'{{"order": "{order}"}}')
                await transcripts.append(connection, run_id, 1, PIN.name, Message(role=Role.ASSISTANT, tool_calls=(asked,)))

    def _free(self) -> list[Call]:
        busy = [one.call for one in self.running]
        return [call for call in self.calls if not call.ended and not call.parked and call not in busy]

    @precondition(lambda self: self._free())
    @rule(data=st.data(), answer_lost=st.booleans(), checks=st.booleans())
    def begin(self, data: st.DataObject, answer_lost: bool, checks: bool) -> None:
        call = data.draw(st.sampled_from(self._free()), label="call")
        claim = Claim(call.request.model_copy(update={"rulings": call.rulings}), self.spec, f"t{next(self.tokens)}", "w", undo_timeout_s=60)
        if answer_lost:
            self._wait(effects.begin(self.database, claim))
        begun = self._wait(effects.begin(self.database, claim))
        self.seen.add(begun.outcome)
        if begun.outcome == "unknown" and checks and not begun.undoing:
            begun = self._checked(call, claim, begun)
        self._judge(call, claim, begun)

    def _checked(self, call: Call, claim: Claim, begun: Begun) -> Begun:
        done = self.world.done[call.key] > 0
        again: Begun = self._wait(effects.begin(self.database, claim, checked=begun.attempts))
        assert again.outcome == "go"
        self.seen.add("checked")
        if done:
            self._wait(effects.finish(self.database, claim, again.key, state="succeeded", text="checked", is_error=False))
            call.ended = True
            return Begun("done", again.key, again.attempts)
        return again

    def _judge(self, call: Call, claim: Claim, begun: Begun) -> None:
        if begun.outcome == "go":
            if self.effect is Effect.ONCE:
                assert self.world.done[call.key] == 0, "told to go although it was done"
            self.running.append(Running(call, claim, begun))
            self._hold(claim, "1 hour")
        elif begun.outcome == "unknown":
            assert self.effect is Effect.ONCE
            call.parked = True
        elif begun.outcome == "reused":
            assert self.world.done[call.key] > 0, "reused what was never done"
            text = begun.message.text if begun.message else ""
            self._wait(effects.finish(self.database, claim, begun.key, state=None, text=text, is_error=False))
            call.ended = True
        elif begun.outcome == "busy":
            assert self._alive(call.key), "busy without anybody alive"

    def _alive(self, key: str) -> bool:
        return any(one.call.key == key for one in self.running)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.running), label="attempt")
        if not one.acted:
            one.acted = True
            self.world.done[one.call.key] += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data(), answer_lost=st.booleans())
    def end(self, data: st.DataObject, answer_lost: bool) -> None:
        """The tool returns, or says by a ToolError that it did nothing."""
        one = data.draw(st.sampled_from(self.running), label="attempt")
        self.running.remove(one)
        state, text = ("succeeded", "done") if one.acted else ("failed", "refused")
        for _ in range(2 if answer_lost else 1):
            ended = self._wait(effects.finish(self.database, one.claim, one.begun.key, state=state, text=text, is_error=not one.acted))
            assert ended.recorded
        one.call.ended = True

    @precondition(lambda self: self.running)
    @rule(data=st.data(), told=st.booleans())
    def die(self, data: st.DataObject, told: bool) -> None:
        """The worker is killed, or says before its end that it does not know; its lease runs out."""
        one = data.draw(st.sampled_from(self.running), label="attempt")
        self.running.remove(one)
        if told and self.effect is Effect.ONCE:
            self._wait(effects.leave_unknown(self.database, one.claim, one.begun.key, "it broke off"))
        self._hold(one.claim, "-1 hour")

    def _hold(self, claim: Claim, length: str) -> None:
        """Set how long the holder counts as alive: the machine's steps take as long as they take."""
        sql = "update effects set lease_until = now() + $3::text::interval where tenant = $1 and token = $2"
        self._wait(self.database.execute(sql, self.tenant, claim.token, length))

    @precondition(lambda self: any(call.parked for call in self.calls))
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        """A person finds out, and says skip with the result, or do it again. The truth may have changed since it was parked."""
        call = data.draw(st.sampled_from([call for call in self.calls if call.parked]), label="parked")
        if self._alive(call.key):
            return
        call.parked = False
        if self.world.done[call.key]:
            call.ended = True
            self._wait(self._skip(call))
            self.seen.add("skipped")
        else:
            call.rulings += 1
            self.seen.add("ruled")

    async def _skip(self, call: Call) -> None:
        answer = Message(role=Role.TOOL, call_id="c", text="It was done.")
        async with self.database.transaction() as connection:
            await transcripts.append(connection, call.request.run_id, 2, PIN.name, answer)

    @rule(data=st.data(), by=st.sampled_from(["anna"]))
    def rule_in_the_ledger(self, data: st.DataObject, by: str) -> None:
        """A person rules on the ledger's row itself."""
        key = data.draw(st.sampled_from(sorted(self.world.done)), label="key")
        ruling: Any = "done" if self.world.done[key] else "not_done"
        ruled = self._wait(effects.rule(self.database, tenant=self.tenant, tool="pay", key=key, ruling=ruling, by=by))
        if ruled:
            self.seen.add("ruled in the ledger")

    @invariant()
    def an_effect_is_done_at_most_once(self) -> None:
        if self.effect is Effect.ONCE:
            assert max(self.world.done.values()) <= 1

    @invariant()
    def a_key_has_one_holder(self) -> None:
        holders = [one.call.key for one in self.running]
        assert len(holders) == len(set(holders))

    @invariant()
    def what_the_ledger_calls_done_was_done(self) -> None:
        rows = self._wait(self.database.fetch("select key, state from effects where tenant = $1 and tool = 'pay'", self.tenant))
        for row in rows:
            if row["state"] == "succeeded":
                assert self.world.done[row["key"]] > 0


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (Effect.ONCE, {"go", "busy", "reused", "unknown", "checked", "ruled", "skipped", "ruled in the ledger"}),
        (Effect.IDEMPOTENT, {"go", "busy", "reused"}),
    ],
)
def test_whatever_happens_an_effect_is_done_at_most_once(stack: RunningStack, effect: Effect, expected: set[str], long_ago: None) -> None:
    play(LedgerMachine, stack, effect, expected)


def play(kind: type[LedgerMachine], stack: RunningStack, effect: Effect, expected: set[str]) -> None:
    """Run a machine until it has been everywhere it should."""
    loop = asyncio.new_event_loop()
    context = Database.open(stack.database_url, min_size=1, max_size=2)
    database = loop.run_until_complete(context.__aenter__())
    seen: set[str] = set()
    attributes = {"loop": loop, "database": database, "effect": effect, "seen": seen}
    machine: Any = type("Machine", (kind,), attributes)
    try:
        for number in range(ROUNDS):
            run_state_machine_as_test(
                seed(number)(machine) if number else machine,
                settings=settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
            )
            if seen >= expected:
                break
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.close()
    assert seen >= expected, "the machine did not reach every outcome: the test shows less than it claims"
