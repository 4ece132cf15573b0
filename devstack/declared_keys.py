"""What the doctor finds of the keys that models.yaml files declare: where each is read, and whether it can be; never the key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from devstack.finding import Finding

REPORT: Final = (sys.executable, "-P", "-m", "activities.inference.key_report")
"""A process of its own: it reads the files as a worker does, and nothing of the worker's is loaded here."""
REPORT_S: Final = 18.0
"""A program that prints a key gets 10 s of it."""
_REMEDIES: Final = {
    "env": "set the variable where the worker runs",
    "file": "write the key, and nothing else, into the file, readable by the worker's user",
    "command": "run it by hand and see what it says",
}


async def find(folders: Sequence[Path], environment: Mapping[str, str], *, run_commands: bool) -> list[Finding]:
    """A finding for each key, or one for what is wrong with a file."""
    if not folders:
        return []
    options = ["--run-commands"] if run_commands else []
    status, output, complaint = await _run([*REPORT, *options, *map(str, folders)], environment)
    if status == 2:
        return [Finding("models.yaml", "fail", complaint.strip().removesuffix("."), "correct the file")]
    if status != 0:
        why = "no answer in time" if status is None else f"ended with {status}: {complaint.strip()[-200:]}"
        return [Finding("models.yaml", "fail", f"the keys could not be looked at ({why})", "report this")]
    return [_finding(key) for key in json.loads(output)]


def _finding(key: Mapping[str, Any]) -> Finding:
    name = f"key {key['provider']}/{key['key']}"
    if not key["read"]:
        return Finding(name, "ok", f"{key['place']}: not run; --run-commands runs it")
    if key["problem"] is not None:
        return Finding(name, "warn", key["problem"], _REMEDIES[key["kind"]])
    return Finding(name, "ok", f"{key['place']} holds one")


async def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int | None, str, str]:
    """(status, output, complaint) of a program; no status: it took too long."""
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env={**environment, **path})
    try:
        async with asyncio.timeout(REPORT_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        return None, "", ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode, output.decode("utf-8", "replace"), complaint.decode("utf-8", "replace")
