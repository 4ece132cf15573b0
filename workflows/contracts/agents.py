"""Agent definitions: data, stored by content hash and pinned for a run's life."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from workflows.contracts import tags
from workflows.contracts.inference import Priority
from workflows.contracts.messages import Frozen

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,62}$"
TOOL_NAME_PATTERN = r"^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$"


class Effect(StrEnum):
    """What running a tool twice would do; decides what a retry may do.

    `PURE`: nothing changes, re-run freely. `IDEMPOTENT`: re-run with the same key. `ONCE`: a crash between start and end is an
    unknown outcome, never re-run silently.
    """

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


class ToolKind(StrEnum):
    """What stands behind a tool's name."""

    FUNCTION = "function"
    HTTP = "http"
    AGENT = "agent"
    HANDOFF = "handoff"
    PERSON = "person"


class HttpCall(Frozen):
    """How an HTTP tool is called. `{name}` in `url` is replaced by the argument, percent-encoded; `${env:NAME}` in a header by the
    worker's environment at call time, so that no secret is stored."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: str
    headers: dict[str, str] = {}
    body: Literal["json", "none"] = "none"
    """`json`: the arguments that are not in the url are sent as a JSON body; `none`: as the query string."""


class ApprovalPolicy(Frozen):
    """Who decides on a call, how many of them, how long it may take, and what happens when nobody does."""

    by: tuple[str, ...] = ()
    """People, or groups as `@leads`; empty lets everybody decide."""
    quorum: int = Field(default=1, ge=1, le=20)
    """How many different people must say yes; one no is enough to refuse."""
    not_by_user: bool = False
    """The run's own user may not decide."""
    timeout_s: float | None = Field(default=None, gt=0, le=31_536_000)
    """Seconds until `on_timeout` happens; None waits for ever."""
    on_timeout: Literal["reject", "approve", "escalate", "park"] = "reject"
    escalate_to: tuple[str, ...] = ()
    """Who decides after an escalation; they have `timeout_s` again, then the call is rejected."""
    remind_every_s: float | None = Field(default=None, ge=1, le=31_536_000)
    risk: Literal["low", "medium", "high"] = "medium"
    """For people, to see what matters first."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.on_timeout == "escalate" and not (self.escalate_to and self.timeout_s):
            raise ValueError("on_timeout: escalate needs timeout_s and escalate_to")
        if self.escalate_to and self.on_timeout != "escalate":
            raise ValueError("escalate_to is used with on_timeout: escalate only")
        people = [name for name in self.by if not name.startswith("@")]
        if self.by and len(people) == len(self.by) and len(set(people)) < self.quorum:
            raise ValueError(f"quorum: {self.quorum} people must say yes, but `by` names {len(set(people))}")
        return self


class ToolSpec(Frozen):
    """All that a definition holds of one tool; part of the pinned content hash."""

    name: str = Field(pattern=TOOL_NAME_PATTERN)
    description: str
    parameters: dict[str, Any]
    kind: ToolKind = ToolKind.FUNCTION
    effect: Effect = Effect.PURE
    timeout_s: float = Field(default=60, gt=0, le=86_400)
    approve: str | bool = False
    """False: never; True: always; text: a condition over the arguments, as in `amount_usd > 50`."""
    policy: ApprovalPolicy | None = Field(default=None, exclude_if=lambda policy: policy is None)
    """Who decides, where a call needs a yes; unset, everybody may, for ever. Left out of the stored form when unset."""
    undo: bool = Field(default=False, exclude_if=lambda undo: not undo)
    """The tool has a function that undoes its effect."""
    key: str | None = None
    """The argument that is the business key of the effect: two calls with one value share one effect."""
    retries: int = Field(default=0, ge=0, le=100)
    """How often a raising pure or idempotent tool is run again before its failure is told to the model."""
    invalidates: tuple[str, ...] = Field(default=(), exclude_if=lambda tags: not tags)
    """Tags of cached answers that are thrown away together with the effect's end; `{argument}`, `{tenant}`, `{user}` are filled in."""
    http: HttpCall | None = None


class Limits(Frozen):
    """Hard limits of one run; reaching one parks the run (a sub-agent's is told to its caller)."""

    steps: int = Field(default=50, ge=1, le=10_000)
    """Model and tool calls together."""
    calls: int = Field(default=50, ge=1, le=10_000)
    """Model calls."""
    tokens: int = Field(default=1_000_000, ge=1)
    cost_usd: Decimal = Field(default=Decimal(1), gt=0)
    time_s: float = Field(default=3_600, gt=0)
    """Wall-clock seconds of work; waiting for people does not count."""
    corrections: int = Field(default=3, ge=0, le=20)
    """How often in a row the model is told that its answer was malformed before the run is parked."""
    repeats: int = Field(default=3, ge=1, le=20)
    """How often the same call may give the same result before it is refused."""


class Memory(Frozen):
    """What the agent keeps between runs."""

    scope: Literal["user", "agent", "tenant"] = "user"
    recall: int = Field(default=0, ge=0, le=50)
    """How many memories are put before the first step; 0 recalls nothing and costs no activity."""
    remember: bool = False
    """Keep the question and the answer when the run ends."""


class Cache(Frozen):
    """Gives an answer again, without asking a model, when the very same is asked within a time."""

    ttl_s: float = Field(gt=0, le=31_536_000)
    """How long an answer is good, in seconds."""
    tags: tuple[str, ...] = ()
    """Names under which answers can be thrown away before their time; `{tenant}` and `{user}` are filled in."""
    scope: Literal["user", "agent", "tenant", "all"] = "agent"
    """Who shares answers: the runs of one user of this agent, all runs of this agent, of every agent of the tenant, or of all tenants.
    Only `all` ever lets a tenant see what another's run was answered."""

    @field_validator("tags")
    @classmethod
    def _tags_are_readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            if tags.unreadable(tag) or set(tags.places(tag)) - set(tags.CALLERS):
                raise ValueError(f"tag {tag!r}: write a name, in which only {{tenant}} and {{user}} are filled in")
        return value


class AgentDefinition(Frozen):
    """An agent as its YAML file says it, with the tools' specifications resolved."""

    name: str = Field(pattern=NAME_PATTERN)
    version: str = "1"
    description: str = ""
    model: str = "smart"
    """A tier (`fast`, `smart`, …) or a model id with its provider (`openai:gpt-5`)."""
    instructions: str = Field(min_length=1)
    tools: tuple[ToolSpec, ...] = ()
    agents: tuple[str, ...] = ()
    """Agents that this one may call as tools; each shows as a tool of that name."""
    handoffs: tuple[str, ...] = ()
    """Agents that this one may hand the conversation over to; each shows as the tool `hand_over_to_NAME`."""
    limits: Limits = Limits()
    priority: Priority = Priority.NORMAL
    """How urgent its model calls are, unless a run says otherwise."""
    memory: Memory = Memory()
    output_schema: dict[str, Any] | None = None
    max_output_tokens: int = Field(default=1_024, ge=1, le=200_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    ask_people: ApprovalPolicy | None = Field(default=None, exclude_if=lambda policy: policy is None)
    """Set, the model is offered the tool `ask_person`; the policy says who answers and until when."""
    on_cancel: Literal["leave", "undo"] = Field(default="leave", exclude_if=lambda on_cancel: on_cancel == "leave")
    """What becomes of effects that can be undone when the run is cancelled."""
    cache: Cache | None = Field(default=None, exclude_if=lambda cache: cache is None)
    """Unset, it is left out of the stored form: definitions from before it keep their hash, and older workers read them."""

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    def content_hash(self) -> str:
        """The first 32 hex digits of SHA-256 over its JSON: the same content gives the same hash everywhere.

        The order of a schema's properties is content: a model fills them in that order.
        """
        canonical = json.dumps(self.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    def pin(self) -> PinnedAgent:
        """What a workflow carries of this definition."""
        return PinnedAgent(
            name=self.name,
            version=self.version,
            definition_hash=self.content_hash(),
            model=self.model,
            limits=self.limits,
            memory=self.memory,
            on_cancel=self.on_cancel,
        )


class PinnedAgent(Frozen):
    """The part of a definition that orchestration decides by; the rest is loaded by hash inside activities."""

    name: str
    version: str
    definition_hash: str
    model: str
    limits: Limits
    memory: Memory
    on_cancel: Literal["leave", "undo"] = Field(default="leave", exclude_if=lambda on_cancel: on_cancel == "leave")
