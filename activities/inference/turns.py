"""From a model's answer to what orchestration may act on: known tools, valid arguments, a fitting answer; never a guess."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import jsonschema

from activities.inference import answers
from state import transcripts
from state.model_calls import SubRun
from workflows.contracts import conditions
from workflows.contracts.agents import AgentDefinition, ApprovalPolicy, ToolKind, ToolSpec
from workflows.contracts.messages import FinishReason, Message, ModelRequest, ModelResponse, Role, ToolCall, ToolSchema
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact
from workflows.contracts.steps import ModelTurn, ToolCallRef, TurnKind

HANDOFF_PREFIX = "hand_over_to_"
ASK_PERSON = "ask_person"
MAX_CALLS_PER_TURN = 64


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent at its model call: its definition, and the agents it may call or hand over to as they stand now."""

    definition: AgentDefinition
    neighbours: Mapping[str, AgentDefinition]

    def tools(self) -> dict[str, ToolSpec]:
        """Every tool the model is offered, by name."""
        offered = {spec.name: spec for spec in self.definition.tools}
        for name in self.definition.agents:
            offered[name] = _agent_tool(
                self.neighbours[name], ToolKind.AGENT, name, "request", "What it should do, with all it needs to know."
            )
        for name in self.definition.handoffs:
            tool = HANDOFF_PREFIX + name
            offered[tool] = _agent_tool(self.neighbours[name], ToolKind.HANDOFF, tool, "reason", "Why the conversation goes to it.")
        if self.definition.ask_people is not None:
            offered[ASK_PERSON] = _person_tool(self.definition.ask_people)
        return offered

    def schemas(self) -> tuple[ToolSchema, ...]:
        """The same as the model is told of them."""
        return tuple(ToolSchema(name=t.name, description=t.description, parameters=t.parameters) for t in self.tools().values())


@dataclass(slots=True)
class ReadTurn:
    """A turn, with the transcript rows and the sub-runs that are recorded together with it."""

    turn: ModelTurn
    rows: list[dict[str, Any]] = field(default_factory=list)
    sub_runs: list[SubRun] = field(default_factory=list)


def read_turn(
    run_id: str, step: int, seat: Seat, request: ModelRequest, response: ModelResponse, cost_usd: Decimal, unknown_usd: Decimal
) -> ReadTurn:
    """Judge an answer: dispatch what is sound, tell the model what is not."""
    calls = _with_ids(response.tool_calls[:MAX_CALLS_PER_TURN], step)
    said = Message(role=Role.ASSISTANT, text=response.text, tool_calls=calls)
    read = ReadTurn(
        ModelTurn(
            kind=TurnKind.FINAL,
            model=response.model,
            usage=response.usage,
            cost_usd=cost_usd + unknown_usd,
            unknown_usd=unknown_usd,
            preview=preview(response.text),
            step=step,
            last_step=step + len(calls),
            simulated=response.simulated,
        ),
        [transcripts.row(step, said)],
    )
    if calls:
        _read_calls(read, run_id, seat, calls, cut=response.finish is FinishReason.LENGTH)
        return read
    wrong = _what_is_wrong(response, request)
    if wrong:
        read.rows.append(transcripts.row(step, Message(role=Role.USER, text=wrong), part=1))
        read.turn = read.turn.model_copy(update={"kind": TurnKind.INVALID, "reason": preview(wrong)})
    return read


def preview(text: str) -> str:
    """A short redacted line, fit for a history."""
    return one_line(redact(transcripts.storable(text)))


def _read_calls(read: ReadTurn, run_id: str, seat: Seat, calls: tuple[ToolCall, ...], *, cut: bool) -> None:
    offered = seat.tools()
    refs: list[ToolCallRef] = []
    wrongs: list[str] = []
    for place, call in enumerate(calls, start=1):
        step = read.turn.step + place
        spec = offered.get(call.name)
        arguments, wrong = (None, _CUT) if cut else read_arguments(call, spec, offered)
        if spec is None or arguments is None:
            wrongs.append(wrong)
            told = Message(role=Role.TOOL, call_id=call.call_id, text=wrong, is_error=True)
            read.rows.append(transcripts.row(step, told))
            continue
        agent = _neighbour(seat, spec)
        refs.append(_ref(step, call, spec, arguments, agent))
        if spec.kind is ToolKind.AGENT and agent is not None:
            request = Message(role=Role.USER, text=str(arguments["request"]))
            pin = agent.pin()
            read.sub_runs.append(SubRun(f"{run_id}.{step}", agent.name, pin.definition_hash, agent.limits.cost_usd, request))
    read.turn = read.turn.model_copy(
        update={
            "kind": TurnKind.TOOLS if refs else TurnKind.INVALID,
            "calls": tuple(refs),
            "invalid_calls": len(wrongs),
            "reason": preview(wrongs[0]) if wrongs else "",
        }
    )


_CUT = "Not run: your answer was cut off at the output limit. Make fewer or shorter calls."


def read_arguments(call: ToolCall, spec: ToolSpec | None, offered: Mapping[str, ToolSpec]) -> tuple[dict[str, Any] | None, str]:
    """The call's arguments, or None and what to tell the model."""
    if spec is None:
        return None, f"There is no tool {call.name!r}. The tools are: {', '.join(sorted(offered)) or 'none'}."
    try:
        arguments = _strict_json(call.arguments or "{}")
    except ValueError as error:
        return None, f"The arguments of {call.name} are not JSON: {error}. Send the call again with valid JSON."
    if not isinstance(arguments, dict):
        return None, f"The arguments of {call.name} must be a JSON object."
    wrong = next(_validator(json.dumps(spec.parameters, sort_keys=True)).iter_errors(arguments), None)
    if wrong is not None:
        where = "/".join(str(part) for part in wrong.absolute_path) or "the arguments"
        return (
            None,
            f"The arguments of {call.name} do not fit its schema: {where}: {wrong.message[:300]}. Correct them and call again.",
        )
    problem = answers.unfit(arguments) if spec.kind is ToolKind.PERSON else ""
    return (None, f"The arguments of {call.name} cannot be used: {problem}. Correct them and call again.") if problem else (arguments, "")


def _strict_json(text: str) -> Any:
    """The value, or ValueError: also for NaN, which is no JSON, and of which no approval condition (`amount > 50`) is true."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


@lru_cache(maxsize=512)
def _validator(schema: str) -> Any:
    parsed = json.loads(schema)
    return jsonschema.validators.validator_for(parsed, jsonschema.Draft202012Validator)(parsed)


def _what_is_wrong(response: ModelResponse, request: ModelRequest) -> str | None:
    if response.finish is FinishReason.REFUSAL:
        return "You declined to answer. Answer within what you can do, or say plainly what cannot be done."
    if response.finish is FinishReason.LENGTH:
        return f"Your answer was cut off at {request.max_output_tokens} tokens. Answer again, shorter."
    if not response.text.strip():
        return "Your answer was empty. Answer, or call a tool."
    if request.output_schema is None:
        return None
    try:
        answer = _strict_json(response.text)
    except ValueError as error:
        return f"Your answer must be JSON by the schema you were given, and is not JSON: {error}. Answer with the JSON only."
    wrong = next(_validator(json.dumps(request.output_schema, sort_keys=True)).iter_errors(answer), None)
    if wrong is None:
        return None
    where = "/".join(str(part) for part in wrong.absolute_path) or "the answer"
    return f"Your answer does not fit the schema: {where}: {wrong.message[:300]}. Answer again with JSON that fits."


def _ref(step: int, call: ToolCall, spec: ToolSpec, arguments: dict[str, Any], agent: AgentDefinition | None) -> ToolCallRef:
    canonical = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    needs_approval = conditions.approval_needed(spec, arguments)
    return ToolCallRef(
        step=step,
        call_id=call.call_id,
        name=spec.name,
        kind=spec.kind,
        effect=spec.effect,
        timeout_s=spec.timeout_s,
        retries=spec.retries,
        arguments_hash=hashlib.sha256(canonical.encode(errors="replace")).hexdigest()[:16],
        preview=preview(canonical),
        needs_approval=needs_approval,
        policy=spec.policy if needs_approval or spec.kind is ToolKind.PERSON else None,
        agent=agent.pin() if agent else None,
    )


def _neighbour(seat: Seat, spec: ToolSpec) -> AgentDefinition | None:
    if spec.kind is ToolKind.AGENT:
        return seat.neighbours[spec.name]
    return seat.neighbours[spec.name.removeprefix(HANDOFF_PREFIX)] if spec.kind is ToolKind.HANDOFF else None


def _agent_tool(agent: AgentDefinition, kind: ToolKind, name: str, argument: str, meaning: str) -> ToolSpec:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": meaning}},
        "required": [argument],
        "additionalProperties": False,
    }
    return ToolSpec(name=name, description=agent.description or f"The agent {agent.name}.", parameters=parameters, kind=kind)


def _person_tool(policy: ApprovalPolicy) -> ToolSpec:
    return ToolSpec(
        name=ASK_PERSON,
        description="Ask a person what you cannot find out or decide yourself. It may take long; ask all you need in one question.",
        parameters=answers.PARAMETERS,
        kind=ToolKind.PERSON,
        policy=policy,
    )


def _with_ids(calls: tuple[ToolCall, ...], step: int) -> tuple[ToolCall, ...]:
    """Call ids are the provider's; an empty or repeated one is replaced, since results are matched by it."""
    seen: set[str] = set()
    named = []
    for place, call in enumerate(calls, start=1):
        given = transcripts.storable(call.call_id)
        unique = given if given and given not in seen else f"call_{step}_{place}"
        seen.add(unique)
        named.append(call.model_copy(update={"call_id": unique, "name": transcripts.storable(call.name)}))
    return tuple(named)
