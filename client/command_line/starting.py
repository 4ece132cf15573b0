"""`holdfast run`: start an agent from the shell, and wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.exits import ExitCode, exit_code_of
from client.command_line.options import AsJson, Tenant
from client.command_line.terminal import put, put_json, say, usd
from workflows.contracts.errors import InvalidInputError, RunError

if TYPE_CHECKING:
    from client.orchestrator import StartOptions
    from client.run import Run
    from workflows.contracts.runs import RunOutcome

STANDARD_INPUT = "-"


def run(
    agent: str,
    text: str | None = None,
    /,
    *,
    input: Annotated[str | None, Parameter(name=["--input", "-i"], allow_leading_hyphen=True)] = None,  # noqa: A002 - the option's name
    batch: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    concurrency: int = 8,
    key_column: str | None = None,
    user: str | None = None,
    tenant: Tenant = "default",
    key: str | None = None,
    priority: Literal["urgent", "high", "normal", "low", "batch"] | None = None,
    wait: bool = True,
    timeout: float | None = None,
    json: AsJson = False,
) -> int:
    """Start an agent and print its answer; or run a whole file of inputs with --batch.

    The answer, or with --no-wait the run's id, is on standard output; everything else is on standard error.
    A run that waits for a person is not waited for: the command ends with 4 and says what to do.

    Args:
        agent: The agent's name; `holdfast agents` lists them.
        text: What it is asked, unless --input or --batch says it.
        input: Read what it is asked from this file; - is standard input.
        batch: Run every line of a JSONL file, or every row of a CSV file (by its suffix), and print a JSON line for each result.
        output: With --batch, write the results to this file.
        concurrency: With --batch, how many runs go on at once.
        key_column: With --batch, the field that names each request; without it the file's content and the line's number do.
        user: Whom it is for.
        key: An idempotency key: the same key is the same run, however often this command is repeated.
        priority: How urgent it is, instead of what the agent's definition says; batch: by the provider's Batch API, within a day.
        wait: Wait for the answer, or with --no-wait print the run's id as soon as Temporal has it.
        timeout: Wait at most this many seconds; the run goes on.
    """
    options: StartOptions = {"user": user, "tenant": tenant, "priority": priority}
    if batch is not None:
        if text is not None or input is not None or key is not None or not wait:
            raise InvalidInputError("--batch takes its inputs and keys from the file: leave TEXT, --input, --key and --no-wait out.")
        from client.command_line.batch import run_batch

        return asyncio.run(
            run_batch(agent, batch, output=output, concurrency=concurrency, key_column=key_column, as_json=json, options=options)
        )
    body = _read(text, input)
    options["idempotency_key"] = key
    return asyncio.run(_run_one(agent, body, options, wait=wait, timeout_s=timeout, as_json=json))


async def _run_one(agent: str, body: str, options: StartOptions, *, wait: bool, timeout_s: float | None, as_json: bool) -> int:
    from client.command_line.connection import connected

    async with connected() as holdfast:
        run = await holdfast.start(agent, body, **options)
        if not wait:
            put_json({"run_id": run.id, "agent": agent, "url": run.url}) if as_json else put(run.id)
            return ExitCode.OK
        say(f"run {run.id}" + (f"  {run.url}" if run.url else ""))
        try:
            return await wait_for(run, timeout_s=timeout_s, as_json=as_json)
        except asyncio.CancelledError:
            say(f"The run goes on: `holdfast result {run.id}` waits for it again, `holdfast cancel {run.id}` stops it.")
            raise


async def wait_for(run: Run, *, timeout_s: float | None, as_json: bool) -> int:
    """Print the run's answer when it is there, its steps as they come; the exit code."""
    steps = asyncio.create_task(_tell_steps(run)) if sys.stderr.isatty() else None
    answer: str | None = None
    outcome: RunOutcome | None = None
    trouble: RunError | TimeoutError | None = None
    try:
        outcome = await run.outcome(timeout_s=timeout_s, raise_when_parked=True)
        answer = await run.result()
    except (RunError, TimeoutError) as error:
        trouble = error
    finally:
        if steps is not None:
            await _end(steps, drain=outcome is not None)
    if as_json:
        put_json(await _as_json(run, outcome, answer, trouble))
    elif answer is not None:
        put(answer)
    if outcome is not None and outcome.simulated:
        say("The answer is simulated: no model wrote it.")
    if trouble is not None:
        say(f"holdfast: {trouble}")
        return exit_code_of(trouble)
    return ExitCode.OK


async def _as_json(run: Run, outcome: RunOutcome | None, answer: str | None, trouble: BaseException | None) -> dict[str, Any]:
    summary = await run.summary()
    return {
        "run_id": run.id,
        "agent": outcome.agent if outcome else summary.agent,
        "status": summary.status,
        "answer": answer,
        "error": str(trouble) if trouble else None,
        "failure_class": outcome.failure.failure_class if outcome and outcome.failure else summary.failure_class,
        "totals": outcome.totals.model_dump(mode="json") if outcome else None,
        "simulated": outcome.simulated if outcome else None,
        "url": run.url,
    }


async def _tell_steps(run: Run) -> None:
    from client.events import StepEvent

    async for event in run.events():
        if isinstance(event, StepEvent) and event.step.kind != "input":
            step = event.step
            cost = f"  {usd(step.cost_usd)}" if step.cost_usd else ""
            mark = "  (simulated)" if step.simulated else ""
            say(f"  {step.step:>3}  {step.kind} {step.name}{cost}{mark}  {step.asked} {step.preview}"[:200])


async def _end(steps: asyncio.Task[None], *, drain: bool) -> None:
    if not drain:
        steps.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await asyncio.wait_for(steps, 5)


def _read(text: str | None, source: str | None) -> str:
    if text is not None and source is not None:
        raise InvalidInputError("TEXT and --input say the same thing: give one of them.")
    if source is None:
        if text is None:
            raise InvalidInputError("Say what the agent is asked: as TEXT, with --input FILE, or with --input - from standard input.")
        return text
    from client.inputs import decode

    if source == STANDARD_INPUT:
        return decode(sys.stdin.buffer.read(), "standard input")
    try:
        return decode(Path(source).read_bytes(), source)
    except OSError as error:
        raise InvalidInputError(f"--input: {source} cannot be read: {error.strerror}.") from error
