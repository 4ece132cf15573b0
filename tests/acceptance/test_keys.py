"""A provider's key is rotated under a running worker: the old one ends at once, and no run notices."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from pathlib import Path

import aiohttp

from tests.acceptance.conftest import AGENTS, House, until

OLD, NEW = (f"rotated-key-of-no-worth-{uuid.uuid4().hex}-{name}" for name in ("oldx", "newx"))
MODELS = """
providers:
  simulated:
    dialect: openai
    base_url: "${{env:ACCEPTANCE_PROVIDER_URL}}"
    keys:
      - {{name: vault, command: [cat, {path}]}}
      - {{name: missing, env: NO_SUCH_KEY}}
tiers:
  smart: ["simulated:gpt-5-mini"]
"""
RUNS = 5
ASKED = "\n".join(f"call look_up {json.dumps({'number': number})}" for number in range(4))


async def accept(house: House, *keys: str) -> None:
    """Let the provider take these keys and no others."""
    async with aiohttp.ClientSession() as http, http.put(f"{house.urls.control}/keys", json=list(keys)) as answer:
        assert answer.status == 204


async def test_a_key_that_ends_in_the_midst_of_runs_is_read_anew_and_every_run_completes(house: House, tmp_path: Path) -> None:
    folder, secret = tmp_path / "rotating", tmp_path / "secret"
    shutil.copytree(AGENTS, folder)
    (folder / "models.yaml").write_text(MODELS.format(path=secret), encoding="utf-8")
    secret.write_text(OLD + "\n", encoding="utf-8")
    await accept(house, OLD)
    worker = await house.start_worker([folder])
    runs = [await house.holdfast.start("clerk", ASKED) for _ in range(RUNS)]

    async def some_are_answered() -> bool:
        return sum(entry["status"] == 200 for entry in await house.journal()) >= RUNS

    await until(some_are_answered, "calls are answered by the old key")
    secret.write_text(NEW + "\n", encoding="utf-8")
    await accept(house, NEW)

    assert all("Done: " in answer for answer in await asyncio.gather(*(run.result(timeout_s=60, raise_when_parked=True) for run in runs)))
    asked = [(entry["key"], entry["status"]) for entry in await house.journal()]
    assert ("oldx", 401) in asked, "the old key was never refused"
    assert ("newx", 401) not in asked
    assert ("newx", 200) in asked
    rows = await house.rows(
        "select * from worker_keys where provider = 'simulated' and worker in (select worker from worker_keys where key = 'vault')"
    )
    keys = {row["key"]: (row["source"], row["problem"]) for row in rows}  # workers that other tests killed have left rows of their own
    assert keys == {"vault": ("command cat", None), "missing": ("NO_SUCH_KEY", "NO_SUCH_KEY is not set")}
    log = worker.plan.log.read_text(encoding="utf-8")
    assert "key.renewed" in log
    assert OLD not in log
    assert NEW not in log
