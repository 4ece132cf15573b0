"""Keys planted in every input are found nowhere afterwards: not in the database, a history, or a log."""

from __future__ import annotations

import json
from pathlib import Path

from temporalio.client import WorkflowHistory

from client.temporal import connect_temporal
from tests.acceptance.conftest import PROVIDER_KEY, House
from tests.acceptance.test_definitions import AGENT
from tests.replay.test_replay import strings

PLANTED = {
    "input": "sk-ant-api03-" + "Ab3dE5gH7jK9" * 4,
    "arguments": "ghp_" + "q1W2e3R4t5Y6" * 3,
    "result": "AKIA" + "Q7RT5PLMNBVC2XZA",
    "exception": "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4,
}
TOOLS = f'''from holdfast import tool


@tool
def leak(note: str) -> str:
    """Give a key away."""
    return "the key is {PLANTED["result"]}, noted: " + note


@tool
def burst() -> str:
    """Fail with a key in the message."""
    raise ValueError("cannot log in with {PLANTED["exception"]}")
'''
SECRETS = (*PLANTED.values(), PROVIDER_KEY)


async def test_planted_keys_are_found_nowhere(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "leaky"
    folder.mkdir()
    (folder / "leaky.yaml").write_text(AGENT.format(name="leaky", tool="leak, burst", more=""), encoding="utf-8")
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    (folder / "models.yaml").write_text((house.agents[0] / "models.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    worker = await house.start_worker([folder])
    asked = f'My key is {PLANTED["input"]}.\ncall leak {{"note": "{PLANTED["arguments"]}"}} & burst {{}}'

    run = await house.holdfast.start("leaky", asked, user="u1")
    answer = await run.result(timeout_s=30)

    assert "[redacted:" in answer
    places = {
        "the answer": answer,
        "the database": await _whole_database(house),
        "the history": "\n".join(strings(json.loads((await _history(house, run.id)).to_json()))),
        "the worker's log": worker.plan.log.read_text(encoding="utf-8"),
        "the report": (await run.show()).model_dump_json(),
    }
    assert "redacted" in places["the database"]
    assert "leak" in places["the history"], "the history was not read"
    for place, text in places.items():
        for secret in SECRETS:
            assert secret not in text, f"{secret[:8]}… stands in {place}"


async def _whole_database(house: House) -> str:
    tables = await house.rows("select tablename from pg_tables where schemaname = 'public'")
    found = [str(await house.rows(f'select t::text from "{table["tablename"]}" t')) for table in tables]  # noqa: S608 - names from the catalog
    return "\n".join(found)


async def _history(house: House, run_id: str) -> WorkflowHistory:
    client = await connect_temporal(house.settings)
    return await client.get_workflow_handle(run_id).fetch_history()
