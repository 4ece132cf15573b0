"""`holdfast config`: look at the configuration that all workers share, change it, take a change back."""

from __future__ import annotations

import asyncio
import json as json_text
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cyclopts import App

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson, person
from client.command_line.terminal import clock, put, put_json, put_table, say
from workflows.contracts.errors import InvalidInputError

if TYPE_CHECKING:
    from client.configuring import Changed, Configuration

T = TypeVar("T")

config = App(name="config", help="Look at the configuration that all workers share, change it, take a change back.")


@config.command
def show(*, effective: bool = False, json: AsJson = False) -> int:
    """Tell what is set, and since when.

    Args:
        effective: All that counts, what the workers' files say included.
    """

    async def shown(of: Configuration) -> tuple[Any, Any]:
        return await of.show(), (await of.effective()).model_dump(mode="json") if effective else None

    version, whole = _with(shown)
    if json:
        put_json(asdict(version) if whole is None else whole)
        return ExitCode.OK
    if version.version == 0:
        say("Nothing is set: the workers' models.yaml files count as they are.")
    else:
        say(f"Version {version.version} of {clock(version.created_at)} by {version.author}{_because(version.reason)}")
    put(_yaml(version.document if whole is None else whole))
    return ExitCode.OK


@config.command
def get(path: str, /, *, json: AsJson = False) -> int:
    """Print what counts at one place, the workers' files included.

    Args:
        path: As in tiers.smart; names that hold dots stand in quotes.
    """
    value = _with(lambda of: of.get(path))
    put_json(value) if json else put(_yaml(value))
    return ExitCode.OK


@config.command(name="set")
def set_(path: str, value: str, /, *, reason: str = "", by: str | None = None, json: AsJson = False) -> int:
    """Set one value; every worker has it within two seconds.

    Args:
        path: As in budgets.team-day.cost_usd; names that hold dots stand in quotes.
        value: A YAML or JSON value; null takes away what the files say.
        reason: Why, for the history.
        by: Who changes it; you, if left out.
    """
    return _changed(lambda of: of.set(path, _read(value, "the value"), reason=reason, author=by or person()), json)


@config.command
def unset(path: str, /, *, reason: str = "", by: str | None = None, json: AsJson = False) -> int:
    """Set a value no longer: what the workers' files say counts again.

    Args:
        path: What was set.
        reason: Why, for the history.
        by: Who changes it; you, if left out.
    """
    return _changed(lambda of: of.unset(path, reason=reason, author=by or person()), json)


@config.command
def apply(file: Path, /, *, expected_version: int | None = None, reason: str = "", by: str | None = None, json: AsJson = False) -> int:
    """Set the whole document of a file in place of all that is set.

    Args:
        file: YAML or JSON, with the fields of models.yaml.
        expected_version: The version you have looked at; the change is refused when there is a later one.
        reason: Why, for the history.
        by: Who changes it; you, if left out.
    """
    try:
        document = _read(file.read_text(encoding="utf-8"), str(file)) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidInputError(f"{file} must be a mapping, as models.yaml is.")
    return _changed(lambda of: of.apply(document, reason=reason, author=by or person(), expected_version=expected_version), json)


@config.command
def history(*, limit: int = 20, json: AsJson = False) -> int:
    """List the versions, newest first.

    Args:
        limit: How many at most.
    """
    versions = _with(lambda of: of.history(limit))
    if json:
        put_json([asdict(each) for each in versions])
        return ExitCode.OK
    rows = [[str(v.version), clock(v.created_at), v.author, v.reason or _back(v.rolled_back_to)] for v in versions]
    put_table(["version", "at", "by", "what"], rows)
    return ExitCode.OK


@config.command
def diff(old: int, new: int, /, *, json: AsJson = False) -> int:
    """Tell what two versions do not share.

    Args:
        old: A version; 0 is before the first change.
        new: Another.
    """
    found = _with(lambda of: of.diff(old, new))
    if json:
        put_json([{"path": path, "before": before, "after": after} for path, before, after in found])
        return ExitCode.OK
    put_table(["path", "before", "after"], [[path, _short(before), _short(after)] for path, before, after in found])
    return ExitCode.OK


@config.command
def rollback(version: int, /, *, reason: str = "", by: str | None = None, json: AsJson = False) -> int:
    """Make an older version count again, as a new one.

    Args:
        version: Which; 0 sets nothing any more.
        reason: Why, for the history.
        by: Who changes it; you, if left out.
    """
    return _changed(lambda of: of.rollback(version, reason=reason, author=by or person()), json)


@config.command
def status(*, json: AsJson = False) -> int:
    """Tell which worker has which version, and why not the newest. Ends with 1 when a live worker refuses the newest."""
    workers = _with(lambda of: of.status())
    if json:
        put_json([asdict(each) for each in workers])
    else:
        rows = [
            [w.worker, "live" if w.live else "gone", f"{w.version} of {w.newest}", clock(w.applied_at), w.problem or ""] for w in workers
        ]
        put_table(["worker", "status", "version", "since", "what"], rows)
    return ExitCode.FAILED if any(w.live and w.problem for w in workers) else ExitCode.OK


def _with(work: Callable[[Configuration], Awaitable[T]]) -> T:
    async def connected_work() -> T:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            return await work(holdfast.config)

    return asyncio.run(connected_work())


def _changed(work: Callable[[Configuration], Awaitable[Changed]], json: bool) -> int:
    changed = _with(work)
    if json:
        put_json(asdict(changed))
    else:
        put(str(changed.version))
        say(f"Version {changed.version} counts from now on." + (f" {changed.woken} waiting runs were told." if changed.woken else ""))
    return ExitCode.OK


def _read(text: str, what: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{what} cannot be read as YAML: {error}.") from error


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).removesuffix("...\n").rstrip()


def _short(value: Any) -> str:
    return "" if value is None else json_text.dumps(value, ensure_ascii=False)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _back(version: int | None) -> str:
    return "" if version is None else f"rolled back to {version}"
