"""What people say to a run, and what a run asks them: orders by signal or update, questions, verdicts, the record of both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue

from workflows.contracts import names
from workflows.contracts.agents import ApprovalPolicy, PinnedAgent
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import Parked, Redrive

TEXT_LIMIT: Final = 64 * 1024
"""How long a person's text may be, in characters: it travels through Temporal's history."""
NOBODY: Final = "unknown"
"""Who an order is by when it does not say."""

Text = Annotated[str, Field(max_length=TEXT_LIMIT)]


class Order(Frozen):
    """What every order says."""

    by: str = Field(default=NOBODY, max_length=200)
    """Who gives it. Whoever may send signals to the server may claim a name: docs/explanation/people.md says what that is worth."""
    reason: Text = ""
    id: str = Field(default="", max_length=100)
    """Names this very order: what comes twice under one id, as by update and by signal, counts once."""


class Decision(Order):
    """A person's yes or no; `call_id` None means every call that waits."""

    call_id: str | None = None
    version: int | None = None
    """Of the arguments that were looked at: when others stand by now, the decision is refused."""


class Edit(Order):
    """A yes to a call with other arguments; all of them, as they shall be."""

    call_id: str
    arguments: dict[str, JsonValue]


class Answer(Order):
    """The answer to a question that the agent asked; `call_id` may be left out while only one waits."""

    call_id: str | None = None
    answer: JsonValue


class Instruct(Order):
    """What the agent shall do: told to the model next; with `call_id` in place of that waiting call, which is not run."""

    message: Text = Field(min_length=1)
    call_id: str | None = None


class TakeOver(Order):
    """A person ends the run with an answer of their own."""

    answer: Text = Field(min_length=1)


class Pause(Order):
    """Begin nothing new until `resume`; what is in flight ends."""


class Resume(Order):
    """Go on."""


class Interrupt(Order):
    """A new message of the user's in mid-run. With `now` what is in flight is cancelled, except effects that happen once."""

    message: Text = Field(min_length=1)
    now: bool = False


class Change(Order):
    """Another model, limits or deadline from the next step on; limits that are left out stay."""

    model: str | None = Field(default=None, min_length=1)
    limits: dict[str, JsonValue] = {}


class Stop(Order):
    """End the run as cancelled; with `undo` what its tools did is undone first, last effect first."""

    undo: bool = False


ORDERS: Final[Mapping[str, type[Frozen]]] = MappingProxyType(
    {
        names.APPROVE: Decision,
        names.REJECT: Decision,
        names.EDIT: Edit,
        names.ANSWER: Answer,
        names.INSTRUCT: Instruct,
        names.TAKE_OVER: TakeOver,
        names.PAUSE: Pause,
        names.RESUME: Resume,
        names.INTERRUPT: Interrupt,
        names.CHANGE: Change,
        names.STOP: Stop,
        names.REDRIVE: Redrive,
    }
)
"""Signal → what it takes: one JSON object, or nothing for the defaults."""

Outcome = Literal["accepted", "counted", "duplicate", "late", "refused", "sent"]
"""`counted`: one yes of several that are needed. `sent` is the client's word: Temporal has it, and no worker has read it yet."""


class Verdict(Frozen):
    """What became of an order."""

    outcome: Outcome
    reason: str = ""
    """Why it was refused, who was first, or how many more are needed."""

    @property
    def holds(self) -> bool:
        """Whether what was ordered is so, or will be when others say it too."""
        return self.outcome in ("accepted", "counted", "duplicate")


QuestionKind = Literal["approval", "question", "result"]
"""A call that needs a yes, a question that the agent asks, a result that a hook holds back."""


class Ask(Frozen):
    """What a hook gives to have a person look first."""

    reason: str = ""
    policy: ApprovalPolicy = ApprovalPolicy()

    def __init__(self, reason: str = "", policy: ApprovalPolicy | None = None) -> None:
        super().__init__(reason=reason, policy=policy or ApprovalPolicy())  # type: ignore[call-arg]  # the fields of the subclass


class AskRequest(Frozen):
    """Put a question before people, remind them of it, escalate it, or look up anew who may decide."""

    run_id: str
    step: int
    call_id: str
    model_step: int
    kind: QuestionKind
    tool: str
    agent: PinnedAgent
    tenant: str
    user: str | None = None
    policy: ApprovalPolicy
    reason: str = ""
    """Why it is asked, beside what the tool declares: a hook's words."""
    asked: int = 1
    """How often this question was opened; a redrive opens it again."""
    occasion: Literal["opened", "reminder", "escalated", "decision"] = "opened"
    escalated: bool = False
    """It was escalated, now or earlier: it is the others' to decide."""
    number: int = 0
    """Which reminder it is."""
    since: datetime
    until: datetime | None = None


class Asked(Frozen):
    """Who may decide; empty means everybody."""

    allowed: tuple[str, ...] = ()


class EditRequest(Frozen):
    """Other arguments for a call, an answer, or another input: to be checked, and kept as a new version when they fit."""

    run_id: str
    step: int
    call_id: str = ""
    model_step: int = 0
    kind: Literal["arguments", "answer", "input"]
    name: str = ""
    agent: PinnedAgent
    tenant: str
    value: JsonValue
    by: str
    note: int
    """The record's number of the order: the same edit twice is one version."""


class Edited(Frozen):
    """What became of an edit."""

    problem: str = ""
    """Why it does not fit: the field and the remedy; empty when it does."""
    version: int = 1
    """Of the arguments, 1 being the model's."""
    preview: str = ""
    text: str = ""
    """An answer as the model is told it."""


class Note(Frozen):
    """One order, or a time-out, and what became of it; never changed afterwards."""

    number: int
    """Within the run, from 1."""
    at: datetime
    order: str = Field(max_length=100)
    channel: Literal["signal", "update", "timer"] = "signal"
    by: str = NOBODY
    call_id: str | None = None
    step: int | None = None
    outcome: Outcome
    reason: str = ""
    """What the order said, or why it was refused."""
    given: str = ""
    """The order as it was sent, redacted and cut."""
    version: int | None = None
    """Of the arguments that were decided on."""
    closes: bool = False
    """The question, or the dead letter of the step, is settled by this."""
    letter: int | None = None
    """The dead letter that was decided on."""
    action: str = ""
    """Of a redrive: what it ordered."""
    result: str = ""
    """Of a redrive that skips: what the call gave, as a person found out."""


class Filed(Frozen):
    """A step that cannot go on: to be filed as a dead letter; its number is `parked.letter`."""

    at: datetime
    parked: Parked
    call_id: str = ""
    model_step: int = 0


class RecordRequest(Frozen):
    """What a run has to write down of people and dead letters, in order."""

    run_id: str
    tenant: str
    user: str | None = None
    agent: PinnedAgent
    notes: tuple[Note, ...] = ()
    filed: tuple[Filed, ...] = ()


class CloseRequest(Frozen):
    """A run ends otherwise than by its answer: what it asked is withdrawn, effects of unknown outcome are reported."""

    run_id: str
    tenant: str
    agent: PinnedAgent
    status: str
    by: str = NOBODY
    reason: str = ""
    answer: str | None = None
    """A person's answer in place of the model's, written at `step`."""
    step: int = 0


class Undoable(Frozen):
    """An effect that was done and can be undone."""

    step: int
    call_id: str
    tool: str
    key: str
    timeout_s: float
    doing: int = 1
    """Which attempt did it: one that another run has done anew since is not this run's to undo."""


class UndoRequest(Frozen):
    """One effect to undo."""

    run_id: str
    agent: PinnedAgent
    tenant: str
    user: str | None = None
    effect: Undoable
    rulings: int = 0


class WithholdRequest(Frozen):
    """A result that a person does not let the model see."""

    run_id: str
    step: int
    by: str
    reason: str = ""
