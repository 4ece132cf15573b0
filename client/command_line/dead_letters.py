"""`holdfast dead-letters`: steps that cannot go on; look at them, and let them go on, one by one or many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cyclopts import App

from client.command_line.exits import ExitCode
from client.command_line.letter_options import NOTHING_CHOSEN, PLAIN, Chosen, Flag, Limit, Manner, State
from client.command_line.options import AsJson, person
from client.command_line.terminal import put_json, put_table, say, short_clock
from workflows.contracts.errors import FailureClass, InvalidInputError

if TYPE_CHECKING:
    from client.letter_orders import BulkReport
    from client.orchestrator import Orchestrator
    from client.redriving import RedriveOptions
    from state.dead_letter_lists import DeadLetter

PROGRESS_EVERY_S = 1.0

dead_letters = App(name="dead-letters", help="Look at steps that cannot go on, and let them go on, one by one or many at once.")


@dead_letters.command(name="list")
def list_(*, chosen: Chosen = NOTHING_CHOSEN, state: State = "open", limit: int = 50, json: AsJson = False) -> int:
    """List them, oldest first.

    Args:
        state: Those that stand so.
        limit: How many at most.
    """

    async def listed(holdfast: Orchestrator) -> int:
        options = chosen.options() | {"state": None if state == "all" else state}
        found = await holdfast.dead_letters.list(limit=limit, **options)
        if json:
            put_json([_plain(each) for each in found])
            return ExitCode.OK
        _table(found)
        matched = await holdfast.dead_letters.count(**options)
        if matched == 0:
            say(_nothing(chosen))
        elif matched > len(found):
            say(f"{len(found)} of {matched:,}; --limit shows more.")
        return ExitCode.OK

    return _connected(listed)


@dead_letters.command
def show(letter: str, /, *, json: AsJson = False) -> int:
    """Tell all of one: why, what lay behind it, its input, what was tried, and how to go on.

    Args:
        letter: RUN:LETTER, or RUN for the one that is open.
    """

    async def shown(holdfast: Orchestrator) -> int:
        from client.command_line.letter_report import put_letter

        found = await holdfast.dead_letters.show(letter)
        put_json(_plain(found)) if json else put_letter(found)
        return ExitCode.OK

    return _connected(shown)


@dead_letters.command
def redrive(
    letter: str | None = None,
    /,
    *,
    chosen: Chosen = NOTHING_CHOSEN,
    manner: Manner = PLAIN,
    use_model: str | None = None,
    limit: Limit = None,
    arguments: str | None = None,
    input: str | None = None,  # noqa: A002 - the option's name
    instructions: str | None = None,
    agent_version: str | None = None,
    json: AsJson = False,
) -> int:
    """Let them go on from the step that failed; what was paid and done before is kept.

    Args:
        letter: RUN:LETTER, or RUN for every parked step of it; without it, all that the options choose.
        use_model: Another model or tier for the rest of the run.
        limit: A new limit, as in steps=100 or cost_usd=2.50 (many allowed); the others stay.
        arguments: Other arguments for a tool call: all of them, as one JSON object, or @FILE.
        input: Another first message in place of the run's own, or @FILE.
        instructions: Other instructions for the agent, or @FILE.
        agent_version: Another version of the agent, by version or hash; current: as it is now.
    """
    from client.command_line.limit_options import changed_limits

    options: RedriveOptions = {
        "action": "retry",
        "model": use_model,
        "limits": changed_limits(limit) if limit else None,
        "arguments": None if arguments is None else _object(arguments),
        "input": None if input is None else _text(input),
        "instructions": None if instructions is None else _text(instructions),
        "agent_version": agent_version,
    }
    return _order(letter, chosen, manner, options, json)


@dead_letters.command
def skip(
    letter: str | None = None, /, *, result: str, chosen: Chosen = NOTHING_CHOSEN, manner: Manner = PLAIN, json: AsJson = False
) -> int:
    """Give a parked tool call this result. Of an effect whose outcome nobody knew it says that it was done.

    Args:
        letter: RUN:LETTER, or RUN; without it, all that the options choose.
        result: What the call gave, as the model is told, or @FILE.
    """
    return _order(letter, chosen, manner, {"action": "skip", "result": _text(result)}, json)


@dead_letters.command
def not_done(letter: str | None = None, /, *, chosen: Chosen = NOTHING_CHOSEN, manner: Manner = PLAIN, json: AsJson = False) -> int:
    """Say of an effect whose outcome nobody knew that it was not done; the model is told.

    Args:
        letter: RUN:LETTER, or RUN; without it, all that the options choose.
    """
    return _order(letter, chosen, manner, {"action": "not_done"}, json)


@dead_letters.command
def abort(
    letter: str | None = None, /, *, undo: Flag = False, chosen: Chosen = NOTHING_CHOSEN, manner: Manner = PLAIN, json: AsJson = False
) -> int:
    """End the runs as failed, with the cause they were parked for.

    Args:
        letter: RUN:LETTER, or RUN; without it, all that the options choose.
        undo: Undo first what their tools did and can undo, the last effect first.
    """
    return _order(letter, chosen, manner, {"action": "abort", "undo": undo}, json)


def _order(letter: str | None, chosen: Chosen, manner: Manner, options: RedriveOptions, json: bool) -> int:
    if letter is not None and (chosen != NOTHING_CHOSEN or manner.all):
        raise InvalidInputError("Name one dead letter, or choose by options, not both.")
    if letter is None and chosen == NOTHING_CHOSEN and not manner.all:
        raise InvalidInputError("Which? Name one as RUN:LETTER, choose by options as in --class quota, or say --all.")
    options |= {"by": manner.by or person(), "reason": manner.reason}

    async def ordered(holdfast: Orchestrator) -> int:
        if letter is None:
            return await _many(holdfast, chosen, manner, options, json)
        if manner.dry_run:
            found = await holdfast.dead_letters.show(letter)
            put_json(_plain(found)) if json else _table([found])
            return ExitCode.OK
        verdict = await holdfast.dead_letters.redrive(letter, **options)
        said = f": {verdict.reason}" if verdict.reason else ""
        told = {"letter": letter, "ordered": options["action"], "outcome": verdict.outcome, "reason": verdict.reason}
        put_json(told) if json else say(f"{letter}: {options['action']} was {verdict.outcome}{said}.")
        return ExitCode.OK

    return _connected(ordered)


async def _many(holdfast: Orchestrator, chosen: Chosen, manner: Manner, options: RedriveOptions, json: bool) -> int:
    from client.dead_letters import CONFIRM_ABOVE

    wanted: Any = chosen.options()
    letters = holdfast.dead_letters
    if manner.dry_run:
        report = await letters.bulk(wanted, rate_per_s=manner.rate, dry_run=True, **options)
        if not json:
            _table(await letters.list(**wanted))
    else:
        matched = await letters.count(**wanted)
        confirmed = manner.yes or (matched > CONFIRM_ABOVE and _confirmed(f"{options['action']} {matched:,} dead letters?"))
        report = await letters.bulk(wanted, rate_per_s=manner.rate, confirmed=confirmed, progress=_progress(matched), **options)
    if json:
        put_json(report)
    elif report.matched == 0:
        say(_nothing(chosen))
    else:
        _tell(report, options)
    return ExitCode.FAILED if report.failed or report.refused else ExitCode.OK


def _progress(matched: int) -> Callable[[int], None]:
    """Tell now and then how far it is."""
    told = [time.monotonic()]

    def tell(done: int) -> None:
        if time.monotonic() - told[0] >= PROGRESS_EVERY_S:
            told[0] = time.monotonic()
            say(f"{done:,} of {matched:,}")

    return tell


def _confirmed(question: str) -> bool:
    """Ask the person at the terminal; without one nobody has confirmed."""
    import sys

    if not sys.stdin.isatty():
        return False
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    raise InvalidInputError("Nothing was ordered.")


def _tell(report: BulkReport, options: RedriveOptions) -> None:
    if report.dry_run:
        say(f"{report.matched:,} would be ordered to {options['action']}; nothing was ordered.")
        return
    parts = {"done": report.done, "left": report.left, "late": report.late, "refused": report.refused, "failed": report.failed}
    told = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    say(f"{report.ordered:,} of {report.matched:,} ordered to {options['action']}: {told or 'nothing'}.")
    for problem in report.problems:
        say(f"  {problem.id}: {problem.why}")
    if report.left:
        say("Those that are left have their order and no worker has carried it out yet; nothing is lost.")


def _table(found: Sequence[DeadLetter]) -> None:
    rows = [
        [each.id, each.agent, each.failure_class, each.what, each.tenant, each.user_id or "", short_clock(each.parked_at), _status(each)]
        for each in found
    ]
    put_table(["id", "agent", "class", "step", "tenant", "user", "since", "what"], rows)


def _status(letter: DeadLetter) -> str:
    return letter.cause if letter.state == "open" else f"{letter.state} by {letter.settled_by or 'nobody'}"


def _nothing(chosen: Chosen) -> str:
    options = ", ".join(f"{name} {value}" for name, value in chosen.options().items())
    known = f"; classes are {', '.join(FailureClass)}" if chosen.class_ is not None else ""
    return f"No dead letter fits: {options}{known}." if options else "There is none."


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {"id": letter.id} | asdict(letter)


def _object(given: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(_text(given))
    except ValueError as error:
        raise InvalidInputError(f"--arguments is not JSON: {error}. In a shell put it into single quotes.") from error
    if not isinstance(value, dict):
        raise InvalidInputError("--arguments must be one JSON object, as in '{\"amount_usd\": 40}'.")
    return value


def _text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        with open(given[1:], encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{given[1:]} cannot be read: {error}.") from error


def _connected(work: Any) -> int:
    async def done() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            return int(await work(holdfast))

    return asyncio.run(done())
