"""An alert is given once over all workers, to a program and a webhook, and never waits for either."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

from aiohttp import web

from activities.inference.alerts import WAITING_AT_MOST, Alerts
from state.pool import Database
from workflows.contracts.inference import AlertSettings

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"


async def test_an_alert_that_two_workers_see_is_given_once_to_program_and_webhook(database: Database, tmp_path: Path) -> None:
    posted: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        posted.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    file, subject = tmp_path / "alerts.jsonl", uuid.uuid4().hex
    settings = AlertSettings(command=(sys.executable, "-c", WRITE, str(file)), webhook=f"http://127.0.0.1:{port}/")
    try:
        async with Alerts(database, lambda: settings).open() as one, Alerts(database, lambda: settings).open() as two:
            for alerts in (one, two, one):
                alerts.raise_("budget_soft", subject, "2026-01-01", share=0.8)
            one.raise_("budget_soft", subject, "2026-01-02", share=0.9)
            two.raise_("last", subject, "now")
            async with asyncio.timeout(30):
                told = [await posted.get() for _ in range(3)]
    finally:
        await runner.cleanup()
    periods = sorted(each["period"] for each in told)
    assert periods == ["2026-01-01", "2026-01-02", "now"]
    assert posted.empty()
    assert sorted(json.loads(line)["period"] for line in file.read_text(encoding="utf-8").splitlines()) == periods


async def test_an_alert_never_blocks_who_raises_it(database: Database) -> None:
    alerts = Alerts(database, AlertSettings)  # nobody gives them
    for number in range(WAITING_AT_MOST + 10):
        alerts.raise_("budget_soft", str(number), "now")
