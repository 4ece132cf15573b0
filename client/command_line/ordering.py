"""Commands by which people say something to a run: `approve`, `reject`, `edit`, `answer`, `instruct`, `take-over`, `pause`, …"""

from __future__ import annotations

import asyncio
import json as encoding
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson, person
from client.command_line.terminal import put_json, say
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.run import Run
    from workflows.contracts.people import Verdict

Call = Annotated[str | None, Parameter(help="The call's id, as `holdfast approvals` lists it.")]
By = Annotated[str | None, Parameter(help="Who says so; you, if left out.")]
Reason = Annotated[str, Parameter(help="Why, for the record.")]
Flag = Parameter(negative="")


def edit(run: str, call: str, arguments: str, /, *, reason: Reason = "", by: By = None, json: AsJson = False) -> int:
    """Say yes to a waiting tool call with other arguments. The model is told.

    Args:
        run: The run's id.
        call: The call's id.
        arguments: All arguments, as one JSON object, or @FILE that holds it.
    """
    given = _json(arguments, "ARGUMENTS")
    if not isinstance(given, dict):
        raise InvalidInputError("ARGUMENTS must be one JSON object, as in '{\"amount_usd\": 40}'.")
    return order(run, "edit", lambda found, who: found.edit(call, given, reason=reason, by=who), by, json)


def answer(run: str, text: str, /, *, call: Call = None, value: Annotated[bool, Flag] = False, by: By = None, json: AsJson = False) -> int:
    """Answer a question that an agent asks.

    Args:
        run: The run's id.
        text: The answer.
        value: The answer is JSON: a number, a list, an object; for questions that ask for one.
    """
    given = _json(text, "TEXT") if value else text
    return order(run, "answer", lambda found, who: found.answer(given, call_id=call, by=who), by, json)


def instruct(run: str, message: str, /, *, call: Call = None, by: By = None, json: AsJson = False) -> int:
    """Tell the agent what to do from its next step on; with --call in place of that waiting call, which is not run then.

    Args:
        run: The run's id.
        message: What to do.
    """
    return order(run, "instruct", lambda found, who: found.instruct(message, call_id=call, by=who), by, json)


def take_over(run: str, text: str, /, *, reason: Reason = "", by: By = None, json: AsJson = False) -> int:
    """End the run with an answer of your own; what is in flight is cancelled.

    Args:
        run: The run's id.
        text: The answer.
    """
    return order(run, "take over", lambda found, who: found.take_over(text, reason=reason, by=who), by, json)


def pause(run: str, /, *, reason: Reason = "", by: By = None, json: AsJson = False) -> int:
    """Let the run begin nothing new until it is resumed; what is in flight ends.

    Args:
        run: The run's id.
    """
    return order(run, "pause", lambda found, who: found.pause(reason=reason, by=who), by, json)


def resume(run: str, /, *, reason: Reason = "", by: By = None, json: AsJson = False) -> int:
    """Let a paused run go on.

    Args:
        run: The run's id.
    """
    return order(run, "resume", lambda found, who: found.resume(reason=reason, by=who), by, json)


def interrupt(run: str, message: str, /, *, now: Annotated[bool, Flag] = False, by: By = None, json: AsJson = False) -> int:
    """Tell the agent something new of its user's, in the middle of the run.

    Args:
        run: The run's id.
        message: What is new.
        now: Cancel what is in flight, except effects that happen once; without it, the step in flight ends first.
    """
    return order(run, "interrupt", lambda found, who: found.interrupt(message, now=now, by=who), by, json)


def change(
    run: str,
    /,
    *,
    model: str | None = None,
    limit: Annotated[list[str] | None, Parameter(negative="")] = None,
    reason: Reason = "",
    by: By = None,
    json: AsJson = False,
) -> int:
    """Give a live run another model, budget or deadline from its next step on.

    Args:
        run: The run's id.
        model: A tier, or PROVIDER:MODEL.
        limit: A new limit, as in cost_usd=2.50 or time_s=7200 (many allowed); the others stay.
    """
    from client.command_line.limit_options import changed_limits

    limits = changed_limits(limit or [])
    return order(run, "change", lambda found, who: found.change(model=model, limits=limits, reason=reason, by=who), by, json)


def stop(run: str, /, *, undo: Annotated[bool, Flag] = False, reason: Reason = "", by: By = None, json: AsJson = False) -> int:
    """End the run as cancelled, on record.

    Args:
        run: The run's id.
        undo: Undo first what its tools did and can undo, the last effect first.
    """
    return order(run, "stop", lambda found, who: found.stop(undo=undo, reason=reason, by=who), by, json)


def order(run: str, name: str, give: Callable[[Run, str], Awaitable[Verdict]], by: str | None, as_json: bool) -> int:
    """Give one run one order, and say what became of it."""

    async def given() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            verdict = await give(await holdfast.get(run), by or person())
        if as_json:
            put_json({"run_id": run, "ordered": name.replace(" ", "_"), "outcome": verdict.outcome, "reason": verdict.reason})
        else:
            said = f": {verdict.reason}" if verdict.reason else ""
            say(f"Run {run}: {name} was {verdict.outcome}{said}.")
        return ExitCode.OK

    return asyncio.run(given())


def _json(given: str, name: str) -> Any:
    text = given
    if given.startswith("@"):
        try:
            with open(given[1:], encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{name}: {given[1:]} cannot be read ({error}).") from error
    try:
        return encoding.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{name} is not JSON: {error}. In a shell put it into single quotes.") from error
