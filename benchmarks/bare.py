"""The other side of the comparison: the same agent as bare Temporal SDK code, as its own documentation would have it written.

The conversation travels through Temporal, the openai SDK calls the model, nothing is recorded elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

with workflow.unsafe.imports_passed_through():
    from openai import AsyncOpenAI

TASK_QUEUE = "bare"
INSTRUCTIONS = "You look things up, one after the other, and then say how many."
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look one thing up by its number.",
            "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
        },
    }
]
RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


class BareActivities:
    """One model call, one tool call."""

    def __init__(self, model: AsyncOpenAI) -> None:
        self._model = model

    @activity.defn
    async def ask(self, model: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's next message."""
        completion = await self._model.chat.completions.create(model=model, messages=messages, tools=TOOLS)  # type: ignore[arg-type]
        message: dict[str, Any] = completion.choices[0].message.model_dump(exclude_none=True)
        return message

    @activity.defn
    async def look_up(self, arguments: str) -> str:
        """4 KB of text."""
        line = f"The quick brown fox jumps over the lazy dog; item {arguments}. "
        return (line * (4096 // len(line) + 1))[:4096]


@workflow.defn
class BareAgent:
    """Ask, run tools, until there is an answer."""

    @workflow.run
    async def run(self, model: str, request: str) -> str:
        """The answer."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": request}]
        while True:
            said = await workflow.execute_activity(
                "ask", args=[model, messages], start_to_close_timeout=timedelta(minutes=2), retry_policy=RETRY, result_type=dict
            )
            messages.append(said)
            if not said.get("tool_calls"):
                return str(said["content"])
            for call in said["tool_calls"]:
                result = await workflow.execute_activity(
                    "look_up",
                    call["function"]["arguments"],
                    start_to_close_timeout=timedelta(minutes=1),
                    retry_policy=RETRY,
                    result_type=str,
                )
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


async def serve() -> None:
    """Run the worker until it is told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    model = AsyncOpenAI(base_url=os.environ["BENCH_PROVIDER_URL"], api_key=os.environ["BENCH_PROVIDER_KEY"], max_retries=0)
    activities = BareActivities(model)
    runner = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("openai", "pydantic", "benchmarks"))
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[BareAgent],
        activities=[activities.ask, activities.look_up],
        workflow_runner=runner,
        max_concurrent_activities=200,
        max_concurrent_workflow_tasks=100,
    ):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve())
    sys.stdout.flush()
    os._exit(0)
