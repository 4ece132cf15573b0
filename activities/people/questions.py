"""The activities that put questions before people, and hold what people give against what it must fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import structlog
from temporalio import activity

from activities.inference import answers, turns
from activities.inference.answering import Definitions
from activities.people import telling
from state import edits, people
from state.pool import Database
from workflows.contracts import names
from workflows.contracts.agents import AgentDefinition, ToolSpec
from workflows.contracts.messages import ToolCall
from workflows.contracts.people import TEXT_LIMIT, Asked, AskRequest, Edited, EditRequest
from workflows.contracts.people_settings import PeopleSettings
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact

log = structlog.get_logger("holdfast.people")

ARGUMENTS_LIMIT_BYTES: Final = 256 * 1024


Misread = Callable[[str, str], str]
"""(tool, arguments as JSON) → why the tool itself cannot read them; empty when it can, or when it is not here."""


class QuestionActivities:
    """`ask_person` and `check_edit`."""

    def __init__(self, database: Database, definitions: Definitions, settings: Callable[[], PeopleSettings], misread: Misread) -> None:
        self._misread = misread
        self._database = database
        self._definitions = definitions
        self._settings = settings

    @activity.defn(name=names.ASK_PERSON)
    async def ask_person(self, request: AskRequest) -> Asked:
        """Put a question into the inbox and tell whom it concerns; asked again it reminds or escalates. Gives who may decide now."""
        settings, policy = self._settings(), request.policy
        named = policy.escalate_to if request.escalated else policy.by
        for group in settings.unknown(named):
            log.error("people.unknown_group", group=group, run_id=request.run_id, tool=request.tool)
        allowed = settings.resolve(named)
        async with self._database.transaction() as connection:
            question = await people.put(connection, request, allowed)
            if question.state == "open" and settings.notify is not None and request.occasion != "decision":
                await telling.of_question(connection, request, question)
        return Asked(allowed=allowed)

    @activity.defn(name=names.CHECK_EDIT)
    async def check_edit(self, request: EditRequest) -> Edited:
        """Hold a person's arguments, answer or input against what they must fit, and keep them as a new version when they do."""
        match request.kind:
            case "arguments":
                return await self._arguments(request)
            case "answer":
                return await self._answer(request)
            case "input":
                return await self._input(request)

    async def _arguments(self, request: EditRequest) -> Edited:
        definition = await self._definitions.by_hash(request.agent.definition_hash)
        spec = next((tool for tool in definition.tools if tool.name == request.name), None)
        if spec is None:
            return Edited(problem=_no_tool(request.name, definition))
        text = json.dumps(request.value, ensure_ascii=False)
        if len(text.encode(errors="replace")) > ARGUMENTS_LIMIT_BYTES:
            return Edited(problem=f"arguments: at most {ARGUMENTS_LIMIT_BYTES} bytes are taken")
        problem = _misfit(request, spec, text) or self._misread(spec.name, text)
        if problem:
            return Edited(problem=redact(problem))
        version = await edits.keep(self._database, request, text)
        return Edited(version=version, preview=turns.preview(json.dumps(request.value, sort_keys=True, ensure_ascii=False)))

    async def _answer(self, request: EditRequest) -> Edited:
        asked = await edits.as_written(self._database, request.run_id, request.model_step, request.call_id)
        if asked is None:
            return Edited(problem=f"call_id: the run's transcript has no question {request.call_id!r}")
        wanted: dict[str, Any] = json.loads(asked)
        text = answers.told(request.value)
        if len(text) > TEXT_LIMIT:
            return Edited(problem=f"answer: at most {TEXT_LIMIT} characters are taken")
        problem = answers.misfit(wanted, request.value)
        if problem:
            return Edited(problem=redact(problem))
        return Edited(preview=one_line(redact(text)), text=redact(text))

    async def _input(self, request: EditRequest) -> Edited:
        if not isinstance(request.value, str) or not request.value.strip():
            return Edited(problem="input: must be a text that is not empty")
        if len(request.value) > TEXT_LIMIT:
            return Edited(problem=f"input: at most {TEXT_LIMIT} characters are taken")
        version = await edits.keep(self._database, request, request.value)
        return Edited(version=version, preview=turns.preview(request.value))


def _misfit(request: EditRequest, spec: ToolSpec, text: str) -> str:
    """Why arguments do not fit the tool; worded for a person, not for a model."""
    call = ToolCall(call_id=request.call_id, name=spec.name, arguments=text)
    arguments, wrong = turns.read_arguments(call, spec, {spec.name: spec})
    if arguments is not None:
        return ""
    return wrong.removesuffix("Correct them and call again.").rstrip().removesuffix(".")


def _no_tool(name: str, definition: AgentDefinition) -> str:
    if name in definition.agents or name.removeprefix(turns.HANDOFF_PREFIX) in definition.handoffs:
        return f"arguments: {name} is an agent; its own run has its input: redrive that with another"
    return f"arguments: the run's agent has no tool {name!r}"
