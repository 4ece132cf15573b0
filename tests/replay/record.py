"""Record anew what the replay tests replay: `python -m tests.replay.record`. Histories of released versions stay as they are."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory

from client.temporal import DATA_CONVERTER
from devstack.stack import StackSettings, open_stack
from tests.replay.shapes import SHAPES
from tests.workflow.scripted import Engine, Script, agent, asks_for, call, final, serving
from tests.workflow.test_continue_as_new import PADDED_TURNS, PADDING, padded

HISTORIES = Path(__file__).parent / "histories"
TASK_QUEUE = "recording"
HOST = socket.gethostname()
SCRUBBED = {"identity": "recorder", "stackTrace": ""}
"""What a history tells of the machine that made it; a replay reads neither."""


async def record(folder: Path) -> None:
    """Run every shape and write its histories, sub-runs and continuations included."""
    async with open_stack(StackSettings(ui_port=None)) as stack:
        client = await Client.connect(stack.temporal_address, namespace=stack.namespace, data_converter=DATA_CONVERTER)
        for name, shape in SHAPES.items():
            run = await shape(stack)
            write(folder / f"{name}.json", await client.get_workflow_handle(run.id).fetch_history())
            print(f"recorded {name}")
            if name == "sub_agent":
                write(folder / "sub_agents_own.json", await client.get_workflow_handle(f"{run.id}.2").fetch_history())
        await record_continued(client, folder)


async def record_continued(client: Client, folder: Path) -> None:
    """A run so long that the server suggests a new execution: its first execution, and the one that goes on."""
    script = Script()
    script.model("support", *[padded(asks_for(call("find_order", {"place": place}))) for place in range(PADDED_TURNS + 1)], final())
    async with serving(client, TASK_QUEUE, script):
        engine = Engine(client, TASK_QUEUE, script)
        handle = await engine.start(agent())
        await engine.result(handle)
    first = await client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).fetch_history()
    write(folder / "continued_as_new.json", first)
    write(folder / "continuation.json", await client.get_workflow_handle(handle.id).fetch_history())
    print("recorded continued_as_new and continuation")


def emptied(folder: Path) -> Path:
    """The folder without what was recorded before."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    return folder


def write(path: Path, history: WorkflowHistory) -> None:
    """Write a history without what it tells of the machine, and without padding."""
    events = scrubbed(json.loads(history.to_json()))
    path.write_text(json.dumps({"workflow_id": history.workflow_id, "history": events}, indent=1) + "\n", encoding="utf-8")


def scrubbed(value: Any) -> Any:
    """The JSON of a history with names of the machine replaced and padding cut out of its payloads."""
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if isinstance(value, str):
        return value.replace(f"@{HOST}-", "@recorder-")  # in the names of sticky queues
    if not isinstance(value, dict):
        return value
    return {key: unpadded(item) if key == "data" else SCRUBBED.get(key, scrubbed(item)) for key, item in value.items()}


def unpadded(data: Any) -> Any:
    """A payload without the padding that made the server suggest a new execution."""
    if not isinstance(data, str):
        return scrubbed(data)
    return base64.b64encode(re.sub(PADDING.encode(), b"", base64.b64decode(data))).decode()


if __name__ == "__main__":
    asyncio.run(record(emptied(HISTORIES / metadata.version("holdfast"))))
