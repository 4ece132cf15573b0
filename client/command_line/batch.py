"""`holdfast run --batch`: a run for every line of a file, at most so many at once, and a second call goes on where the first ended."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from client.command_line.connection import connected
from client.command_line.exits import ExitCode
from client.command_line.terminal import put_json, say
from client.inputs import Input, decode_text
from client.orchestrator import Orchestrator
from workflows.contracts.errors import InvalidInputError, RunError, RunParkedError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from client.orchestrator import StartOptions

INPUT_FIELD: Final = "input"
USER_FIELD: Final = "user"
KEY_FIELD: Final = "key"
FAILURES_SHOWN: Final = 20
HASH_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Item:
    """One request of the file; `wrong` says why it cannot be sent."""

    line: int
    input: Input = ""
    user: str | None = None
    key: str = ""
    wrong: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one request ended: `completed`, `parked`, `failed`, or `refused` when it could not be started."""

    line: int
    status: str
    key: str
    run_id: str | None = None
    answer: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """A line of the output."""
        return {name: getattr(self, name) for name in self.__slots__}


async def run_batch(
    agent: str, path: Path, *, output: Path | None, concurrency: int, key_column: str | None, as_json: bool, options: StartOptions
) -> int:
    """Run every item and write each result as it comes; the exit code is that of the worst one."""
    if concurrency < 1:
        raise InvalidInputError(f"--concurrency must be at least 1; it is {concurrency}.")
    items = read_items(path, key_column)
    counts: dict[str, int] = {}
    failures: list[Result] = []
    kept: list[dict[str, Any]] = []
    async with connected() as holdfast:
        with _output(output) as out, _progress(len(items)) as advance:
            async with _results(holdfast, agent, items, options, concurrency) as results:
                async for result in results:
                    counts[result.status] = counts.get(result.status, 0) + 1
                    if result.status != "completed":
                        failures.append(result)
                    if as_json and output is None:
                        kept.append(result.as_json())
                    else:
                        out.write(json.dumps(result.as_json(), ensure_ascii=False) + "\n")
                        out.flush()
                    advance()
    if as_json:
        put_json({"total": len(items), **counts, "results": kept} if output is None else {"total": len(items), **counts})
    _tell(len(items), counts, failures)
    if any(status in counts for status in ("failed", "refused")):
        return ExitCode.FAILED
    return ExitCode.PARKED if "parked" in counts else ExitCode.OK


def read_items(path: Path, key_column: str | None = None) -> list[Item]:
    """The requests of a JSONL or CSV file, in order; a line that cannot be read is an item that says so.

    Raises:
        InvalidInputError: the file cannot be read, or has no such column.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"--batch: {path} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(body).hexdigest()[:HASH_CHARS]
    rows = _csv_rows(body, path) if path.suffix.lower() in (".csv", ".tsv") else _json_rows(body)
    items = [_item(line, row, wrong, digest, key_column) for line, row, wrong in rows]
    if not items:
        raise InvalidInputError(f"--batch: {path} holds no request.")
    keys = [item.key for item in items if item.wrong is None]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidInputError(f"--batch: the key {twice!r} stands in {path} more than once: each request needs its own.")
    return items


@asynccontextmanager
async def _results(
    holdfast: Orchestrator, agent: str, items: list[Item], options: StartOptions, concurrency: int
) -> AsyncIterator[AsyncIterator[Result]]:
    """The results as they come. What stops one request for a reason of its own does not stop the others; an outage does."""
    waiting = iter(items)
    done: asyncio.Queue[Result | BaseException | None] = asyncio.Queue()

    async def lane() -> None:
        try:
            for item in waiting:
                done.put_nowait(await _run_item(holdfast, agent, item, options))
            done.put_nowait(None)
        except Exception as error:
            done.put_nowait(error)

    async def drain() -> AsyncIterator[Result]:
        open_lanes = len(lanes)
        while open_lanes:
            found = await done.get()
            if found is None:
                open_lanes -= 1
            elif isinstance(found, BaseException):
                say("The batch stopped. Repeat the command to go on: what was started is not started twice.")
                raise found
            else:
                yield found

    lanes = [asyncio.create_task(lane()) for _ in range(min(concurrency, len(items)))]
    try:
        yield drain()
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)


async def _run_item(holdfast: Orchestrator, agent: str, item: Item, options: StartOptions) -> Result:
    if item.wrong is not None:
        return Result(line=item.line, status="refused", key=item.key, error=item.wrong)
    given = options.copy()
    given["idempotency_key"] = item.key
    if item.user is not None:
        given["user"] = item.user
    try:
        run = await holdfast.start(agent, item.input, **given)
    except UsageError as error:
        return Result(line=item.line, status="refused", key=item.key, error=str(error))
    try:
        answer = await run.result(raise_when_parked=True)
    except RunParkedError as error:
        return Result(line=item.line, status="parked", key=item.key, run_id=run.id, error=str(error))
    except RunError as error:
        return Result(line=item.line, status="failed", key=item.key, run_id=run.id, error=str(error))
    return Result(line=item.line, status="completed", key=item.key, run_id=run.id, answer=answer)


def _json_rows(body: bytes) -> Iterator[tuple[int, Any, str | None]]:
    for line, raw in enumerate(body.splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            yield line, json.loads(decode_text(raw, f"line {line}")), None
        except (ValueError, InvalidInputError) as error:
            yield line, None, str(error) if isinstance(error, InvalidInputError) else f"line {line} is no JSON: {error}"


def _csv_rows(body: bytes, path: Path) -> Iterator[tuple[int, Any, str | None]]:
    text = io.StringIO(decode_text(body, str(path)), newline="")
    reader = csv.DictReader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            odd = None in row or None in row.values()
            yield reader.line_num, row, f"line {reader.line_num} has not as many fields as the heading" if odd else None
    except csv.Error as error:
        raise InvalidInputError(f"--batch: {path}, line {reader.line_num}: {error}.") from error


def _item(line: int, row: Any, wrong: str | None, digest: str, key_column: str | None) -> Item:
    """A row as a request: its `input` field, or the whole of it; `user` and the key beside it."""
    key = f"{digest}:{line}"
    if wrong is not None:
        return Item(line=line, key=key, wrong=wrong)
    fields = row if isinstance(row, dict) else {}
    column = key_column or (KEY_FIELD if fields.get(KEY_FIELD) else None)
    if column is not None and fields.get(column) in (None, ""):
        return Item(line=line, key=key, wrong=f"line {line} has no field {column!r} to take the key from")
    given = fields.get(INPUT_FIELD, row)
    user = fields.get(USER_FIELD) if INPUT_FIELD in fields else None
    return Item(
        line=line,
        input=given if isinstance(given, str | dict | list) else json.dumps(given),
        user=str(user) if user not in (None, "") else None,
        key=str(fields[column]) if column is not None else key,
    )


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"--output: {path} cannot be written: {error.strerror}.") from error
    with file:
        yield file


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on standard error, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar: Progress = Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    )
    with bar:
        task: TaskID = bar.add_task("runs", total=total)
        yield lambda: bar.advance(task)


def _tell(total: int, counts: dict[str, int], failures: list[Result]) -> None:
    say(f"{total} requests: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    for failure in failures[:FAILURES_SHOWN]:
        say(f"  line {failure.line}, {failure.run_id or 'not started'}: {failure.error}")
    if len(failures) > FAILURES_SHOWN:
        say(f"  and {len(failures) - FAILURES_SHOWN} more, all in the output")
