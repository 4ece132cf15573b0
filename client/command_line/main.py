"""The `holdfast` command: which commands there are, and how every one of them ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from cyclopts import App, CycloptsError

from client.command_line.exits import ExitCode, exit_code_of
from workflows.contracts.errors import HoldfastError

_HERE = "client.command_line"
_COMMANDS = (
    ("Runs", "run", f"{_HERE}.starting:run", "Start an agent and print its answer; or run a whole file of inputs with --batch."),
    ("Runs", "runs", f"{_HERE}.reading:runs", "List runs, newest first."),
    ("Runs", "show", f"{_HERE}.reading:show", "Tell all of one run: steps, tools, tokens, cost, links."),
    ("Runs", "result", f"{_HERE}.reading:result", "Wait for a run's answer and print it."),
    ("Runs", "events", f"{_HERE}.reading:events", "Follow a run: a line for every step and change of status until it ends."),
    ("Runs", "fork", f"{_HERE}.forking:fork", "Start a new run from a step of an old one, with changes; what came before is shared."),
    ("Runs", "rebirth", f"{_HERE}.forking:rebirth", "Let a run that died go on from its recorded steps, as a new run."),
    ("Runs", "compare", f"{_HERE}.forking:compare", "Put two runs side by side: same and changed steps, costs, answers."),
    ("Runs", "cancel", f"{_HERE}.deciding:cancel", "Ask a run to stop."),
    ("People", "approvals", f"{_HERE}.approving:approvals", "List what waits for a person: what, why, since when, who may decide."),
    ("People", "approve", f"{_HERE}.approving:approve", "Say yes to a tool call that waits for a person, or to many."),
    ("People", "reject", f"{_HERE}.approving:reject", "Say no to a tool call that waits for a person, or to many."),
    ("People", "edit", f"{_HERE}.ordering:edit", "Say yes to a waiting tool call with other arguments."),
    ("People", "answer", f"{_HERE}.ordering:answer", "Answer a question that an agent asks."),
    ("People", "instruct", f"{_HERE}.ordering:instruct", "Tell an agent what to do from its next step on."),
    ("People", "take-over", f"{_HERE}.ordering:take_over", "End a run with an answer of your own."),
    ("People", "pause", f"{_HERE}.ordering:pause", "Let a run begin nothing new until it is resumed."),
    ("People", "resume", f"{_HERE}.ordering:resume", "Let a paused run go on."),
    ("People", "interrupt", f"{_HERE}.ordering:interrupt", "Tell an agent something new of its user's, in the middle of the run."),
    ("People", "change", f"{_HERE}.ordering:change", "Give a live run another model, budget or deadline."),
    ("People", "stop", f"{_HERE}.ordering:stop", "End a run as cancelled, on record; with --undo undo what it did."),
    ("People", "audit", f"{_HERE}.approving:audit", "Tell who ordered what of a run, and what became of it."),
    ("People", "redrive", f"{_HERE}.deciding:redrive", "Let a parked run go on from the step it is parked at."),
    ("People", "dead-letters", f"{_HERE}.dead_letters:dead_letters", "Look at steps that cannot go on; let them go on, one or many."),
    ("People", "effects", f"{_HERE}.effects:effects", "Tell what tools did; say what became of an effect that nobody knows of."),
    ("Agents", "agents", f"{_HERE}.reading:agents", "List the agents that can be run."),
    ("Agents", "new", f"{_HERE}.scaffold:new", "Make a folder with an agent, a tool and a test to start from."),
    ("Models", "config", f"{_HERE}.configuring:config", "Look at the configuration of all workers, change it, take a change back."),
    ("Models", "models", f"{_HERE}.models:models", "Tell what each tier means, and how its models, providers and keys stand."),
    ("Models", "breakers", f"{_HERE}.breakers:breakers", "Tell how the circuit breakers stand; hold one open or closed by hand."),
    ("Models", "limits", f"{_HERE}.limits:limits", "Tell what every limit has free now, and who waits, for how long."),
    ("Models", "budgets", f"{_HERE}.budgets:budgets", "Tell what every budget has spent and has left, and who waits for one."),
    ("Models", "costs", f"{_HERE}.costs:costs", "Tell what model calls cost, by agent, user, model, day, …, and what today will."),
    ("Models", "cache", f"{_HERE}.caching:cache", "Tell what the response cache saved and holds; throw answers away."),
    ("Installation", "dev", f"{_HERE}.development:dev", "Run PostgreSQL, Temporal and a worker here, until Ctrl-C."),
    ("Installation", "worker", f"{_HERE}.development:worker", "Run a worker for the agents in some folders."),
    ("Installation", "doctor", f"{_HERE}.development:doctor", "Check every part; say what is wrong and what to do."),
)


def build() -> App:
    """The application. Commands are loaded when they are called: `--help` must not wait for Temporal's library."""
    from cyclopts import Group

    order = list(dict.fromkeys(group for group, *_ in _COMMANDS))
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(order)}
    app = App(
        name="holdfast",
        help="Durable AI agents on Temporal: nothing lost, nothing paid or done twice.",
        help_format="plaintext",
        version=lambda: metadata.version("holdfast"),
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
        help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not reachable, 4 waits for a person, 5 goes on, 130 interrupted.",
    )
    for group, name, path, help_text in _COMMANDS:
        app.command(path, name=name, help=help_text, group=groups[group])
    app.register_install_completion_command()
    return app


def dispatch(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Errors that a user can mend are one line on standard error."""
    try:
        return int(build()(list(arguments)) or 0)
    except CycloptsError as error:
        return _complain(_one_line(error), ExitCode.USAGE)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else ExitCode.OK if error.code is None else ExitCode.FAILED
    except KeyboardInterrupt:
        return _complain("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except (HoldfastError, TimeoutError) as error:
        return _complain(str(error), exit_code_of(error))
    except Exception:
        import traceback

        traceback.print_exc()
        return _complain("this is a mistake in Holdfast, please report it with the lines above", ExitCode.BUG)


def main() -> NoReturn:
    """The console script. It leaves without the interpreter's teardown, which a process with Temporal's library may not survive."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an answer may hold what this terminal's encoding cannot show
    status = dispatch(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            status = status or ExitCode.BROKEN_PIPE
    os._exit(status)


def _complain(message: str, code: ExitCode) -> int:
    try:
        sys.stderr.write(f"holdfast: {message}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    return code


def _one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    chain = getattr(error, "command_chain", None) or ()
    return f"{text} `{' '.join(('holdfast', *chain))} --help` says how."


if __name__ == "__main__":
    main()
