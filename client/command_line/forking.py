"""Commands that go back to a run's recorded steps: `fork`, `rebirth`, `compare`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.limit_options import changed_limits
from client.command_line.options import AsJson, person
from client.command_line.terminal import put, put_json, put_table, say, usd
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.comparing import ComparedRun, ComparedStep, Comparison
    from client.steps import StepReport

_ALIKE = {"same": "=", "changed": "≠", "only_a": "<", "only_b": ">"}


def fork(
    run: str,
    /,
    *,
    from_step: int,
    input: str | None = None,  # noqa: A002 - the word for it
    instructions: str | None = None,
    agent_version: str | None = None,
    model: str | None = None,
    limit: Annotated[list[str] | None, Parameter(negative="")] = None,
    arguments: str | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    by: str | None = None,
    json: AsJson = False,
) -> int:
    """Start a new run from a step of an old one. What came before the step is shared: it is not paid and not done again.

    Args:
        run: The old run's id.
        from_step: The first step that is new; `holdfast show` numbers them.
        input: Another first message.
        instructions: Other instructions for the agent.
        agent_version: The agent by another version or definition hash; current is as it is now.
        model: Another model or tier for the new steps.
        limit: A new limit, as in steps=100 or cost_usd=2.50 (many allowed); the others stay.
        arguments: Other arguments for the tool call at that step, as one JSON object.
        wait: Wait for the new run's answer and print it.
        by: Who forks; you, if left out.
    """
    changes: dict[str, Any] = {
        "input": input,
        "instructions": instructions,
        "agent_version": agent_version,
        "model": model,
        "limits": changed_limits(limit) if limit else None,
        "arguments": None if arguments is None else _arguments(arguments),
    }

    async def forked() -> int:
        from client.command_line.connection import connected
        from client.command_line.starting import wait_for

        async with connected() as holdfast:
            made = await holdfast.fork(run, from_step, by=by or person(), **changes)
            if wait:
                say(f"Run {made.id} is forked from {run} at step {from_step}.")
                return await wait_for(made, timeout_s=None, as_json=json)
        told = f"Run {made.id} is forked from {run} at step {from_step}. Compare them: holdfast compare {run} {made.id}"
        put_json({"run_id": made.id, "forked_from": run, "at_step": from_step}) if json else put(told)
        return ExitCode.OK

    return asyncio.run(forked())


def rebirth(
    run: str,
    /,
    *,
    terminate: Annotated[bool, Parameter(negative="")] = False,
    by: str | None = None,
    json: AsJson = False,
) -> int:
    """Let a run that was terminated, timed out or failed go on from its recorded steps, as a new run. Asked again, it is the same one.

    Args:
        run: The dead run's id.
        terminate: End it first: its workflow tasks fail again and again, so that it cannot go on.
        by: Who says so; you, if left out.
    """

    async def reborn() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            made = await holdfast.rebirth(run, terminate=terminate, by=by or person())
        told = f"Run {made.id} goes on where {run} died. Follow it: holdfast events {made.id}"
        put_json({"run_id": made.id, "reborn_from": run}) if json else put(told)
        return ExitCode.OK

    return asyncio.run(reborn())


def compare(a: str, b: str, /, *, json: AsJson = False) -> int:
    """Put two runs side by side: which steps are the same, where they part, costs, answers.

    Args:
        a: One run's id.
        b: The other's.
    """

    async def compared() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.compare(a, b)
        put_json(found.model_dump(mode="json") | {"parted_at": found.parted_at}) if json else _put_comparison(found)
        return ExitCode.OK

    return asyncio.run(compared())


def _arguments(text: str) -> dict[str, Any]:
    from json import JSONDecodeError, loads

    try:
        given = loads(text)
    except JSONDecodeError as error:
        raise InvalidInputError(f"--arguments is no JSON: {error}.") from error
    if not isinstance(given, dict):
        raise InvalidInputError('--arguments must be one JSON object, as in \'{"order_id": "W17"}\'.')
    return given


def _put_comparison(found: Comparison) -> None:
    for letter, run in (("a", found.a), ("b", found.b)):
        put(_head(letter, run))
    put("")
    put_table(["step", "", "a", "b", "cost a", "cost b"], [_row(step) for step in found.steps])
    parted = found.parted_at
    put("\nThe same in every step." if parted is None else f"\nThey part at step {parted}.")
    for letter, run in (("a", found.a), ("b", found.b)):
        put(f"answer of {letter}: {run.answer if run.answer is not None else '(none)'}")


def _head(letter: str, run: ComparedRun) -> str:
    status = run.status.value.replace("_", " ") if run.status else "no longer kept by Temporal"
    origin = f", {run.origin}" if run.origin else ""
    return (
        f"{letter}: run {run.id}: {run.agent}, definition {run.definition_hash[:12]}, {status}{origin}; "
        f"{run.model_calls} model calls, {run.tool_calls} tool calls, {usd(run.cost_usd)}"
    )


def _row(step: ComparedStep) -> list[str]:
    return [str(step.step), _ALIKE[step.likeness], _told(step.a), _told(step.b), _cost(step.a), _cost(step.b)]


def _told(step: StepReport | None) -> str:
    if step is None:
        return ""
    said = f"{step.asked} → {step.preview}" if step.asked and step.preview else step.asked or step.preview
    return f"{step.kind} {step.name}{' (shared)' if step.shared else ''}: {said}"


def _cost(step: StepReport | None) -> str:
    return usd(step.cost_usd) if step is not None and step.cost_usd else ""
