"""The ledger under any order of doing, undoing, deaths, lost answers and rulings: what it says stands, stands, and once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from devstack.stack import RunningStack
from state import effects, undoing
from state.effects import Claim
from tests.integration.tools.test_effect_ledger_machine import Call, LedgerMachine, play
from workflows.contracts.agents import Effect
from workflows.contracts.people import Undoable
from workflows.contracts.steps import ToolRunRequest

COURSES = ("in the air", "ends", "acted, ends", "dies", "acted, dies", "dies, is found out", "acted, dies, is found out")


@dataclass
class Undo:
    """One effect that a run undoes, tried by one attempt after the other."""

    request: ToolRunRequest
    effect: Undoable
    rulings: int = 0
    parked: bool = False
    claim: Claim | None = None
    """The attempt that runs now."""
    acted: bool = False


class UndoMachine(LedgerMachine):
    """What the other machine does, and runs that end and take back what they did."""

    call_count = 8

    def __init__(self) -> None:
        super().__init__()
        self.undos: list[Undo] = []

    def _alive(self, key: str) -> bool:
        return super()._alive(key) or any(undo.claim and undo.effect.key == key for undo in self.undos)

    @precondition(lambda self: self._free())
    @rule(data=st.data(), fails=st.booleans())
    def do_at_once(self, data: st.DataObject, fails: bool) -> None:
        """An attempt from its begin to its end, so that chance gets to what comes after it."""
        before = len(self.running)
        self.begin(data, answer_lost=False, checks=False)
        for one in self.running[before:]:
            self.running.remove(one)
            one.acted = not fails
            self.world.done[one.call.key] += one.acted
            state: Any = "succeeded" if one.acted else "failed"
            self._wait(effects.finish(self.database, one.claim, one.begun.key, state=state, text="said", is_error=fails))
            one.call.ended = True

    def _ended(self) -> list[Call]:
        found = {undo.request.run_id for undo in self.undos}
        return [call for call in self.calls if call.ended and call.request.run_id not in found]

    @precondition(lambda self: self._ended())
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        """A run that has ended is told to undo what it did."""
        call = data.draw(st.sampled_from(self._ended()), label="call")
        found = self._wait(undoing.find(self.database, run_id=call.request.run_id, tenant=self.tenant))
        self.undos += [Undo(call.request, effect) for effect in found]

    def _resting(self) -> list[Undo]:
        return [undo for undo in self.undos if undo.claim is None and not undo.parked]

    @precondition(lambda self: self._resting())
    @rule(data=st.data(), answer_lost=st.booleans(), course=st.sampled_from(COURSES))
    def begin_undo(self, data: st.DataObject, answer_lost: bool, course: str) -> None:
        """An attempt that is left in the air, or comes to its end, or dies and is followed by the next one."""
        undo = data.draw(st.sampled_from(self._resting()), label="undo")
        claim = self._begin(undo, answer_lost=answer_lost)
        if claim is None or course == "in the air":
            return
        if "acted" in course:
            self._act(undo)
        if "dies" in course:
            self._die(undo, claim, told=False)
            self._begin(undo)
            if undo.parked and "is found out" in course:
                self._find_out(undo)
        else:
            self._end(undo, claim, times=1)

    def _begin(self, undo: Undo, *, answer_lost: bool = False) -> Claim | None:
        request = undo.request.model_copy(update={"rulings": undo.rulings})
        spec = self.spec.model_copy(update={"name": "pay.undo"})
        claim = Claim(request, spec, f"u{next(self.tokens)}", "w")
        if answer_lost:
            self._wait(undoing.begin(self.database, claim, undo.effect))
        begun = self._wait(undoing.begin(self.database, claim, undo.effect))
        self.seen.add(f"undo {begun.outcome}")
        if begun.outcome == "go":
            assert self.world.done[undo.effect.key] == 1, "told to undo what does not stand"
            undo.claim, undo.acted = claim, False
            self._hold(claim, "1 hour")
        elif begun.outcome == "unknown":
            undo.parked = True
        elif begun.outcome == "busy":
            assert self._alive(undo.effect.key)
        else:
            self.undos.remove(undo)
        return undo.claim

    def _undoing(self) -> list[Undo]:
        return [undo for undo in self.undos if undo.claim]

    @precondition(lambda self: self._undoing())
    @rule(data=st.data())
    def act_undo(self, data: st.DataObject) -> None:
        undo = data.draw(st.sampled_from(self._undoing()), label="undo")
        self._act(undo)

    def _act(self, undo: Undo) -> None:
        if not undo.acted:
            undo.acted = True
            self.world.done[undo.effect.key] -= 1

    @precondition(lambda self: self._undoing())
    @rule(data=st.data(), answer_lost=st.booleans())
    def end_undo(self, data: st.DataObject, answer_lost: bool) -> None:
        """It returns, or says that it could do nothing."""
        undo = data.draw(st.sampled_from(self._undoing()), label="undo")
        claim = undo.claim
        assert claim is not None
        self._end(undo, claim, times=2 if answer_lost else 1)

    def _end(self, undo: Undo, claim: Claim, *, times: int) -> None:
        for _ in range(times):
            state: Any = "succeeded" if undo.acted else "failed"
            assert self._wait(undoing.finish(self.database, claim, undo.effect, state, "said"))
        undo.claim = None
        self.seen.add(f"undo {state}")

    @precondition(lambda self: self._undoing())
    @rule(data=st.data(), told=st.booleans(), acts=st.booleans())
    def die_in_undo(self, data: st.DataObject, told: bool, acts: bool) -> None:
        undo = data.draw(st.sampled_from(self._undoing()), label="undo")
        claim = undo.claim
        assert claim is not None
        if acts:
            self._act(undo)
        self._die(undo, claim, told=told)

    def _die(self, undo: Undo, claim: Claim, *, told: bool) -> None:
        undo.claim = None
        if told:
            self._wait(effects.leave_unknown(self.database, claim, undo.effect.key, "it broke off"))
        self._hold(claim, "-1 hour")

    @precondition(lambda self: any(undo.parked for undo in self.undos))
    @rule(data=st.data())
    def redrive_undo(self, data: st.DataObject) -> None:
        """A person finds out: it was undone, or it is to be tried again."""
        self._find_out(data.draw(st.sampled_from([undo for undo in self.undos if undo.parked]), label="parked"))

    def _find_out(self, undo: Undo) -> None:
        if self._alive(undo.effect.key):
            return
        undo.parked = False
        if self.world.done[undo.effect.key]:
            undo.rulings += 1
            self.seen.add("undo ruled again")
        else:
            rule_it = effects.rule(self.database, tenant=self.tenant, tool="pay.undo", key=undo.effect.key, ruling="done", by="ann")
            if self._wait(rule_it):
                self.seen.add("undo ruled done")

    @invariant()
    def what_the_ledger_says_is_so(self) -> None:
        rows = self._wait(self.database.fetch("select key, state from effects where tenant = $1 and tool = 'pay'", self.tenant))
        for row in rows:
            stands = {"succeeded": 1, "undone": 0}.get(row["state"])
            assert stands is None or self.world.done[row["key"]] == stands
        assert set(self.world.done.values()) <= {0, 1}


def test_whatever_happens_an_effect_stands_at_most_once_and_is_undone_at_most_once(stack: RunningStack, long_ago: None) -> None:
    undo = {f"undo {outcome}" for outcome in ("go", "done", "gone", "busy", "unknown", "succeeded", "failed", "ruled again", "ruled done")}
    play(UndoMachine, stack, Effect.ONCE, undo - {"undo busy"} | {"go", "reused", "unknown", "busy"})
