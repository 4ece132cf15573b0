"""A changed folder is taken over while the worker serves; a broken edit changes nothing but the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from activities.agents.folders import Catalog
from activities.agents.watch import snapshot, watch
from tests.unit.agents.conftest import AGENT, TOOLS, Write
from workflows.contracts.errors import UnavailableError

EVERY_S = 0.01
WAIT_S = 10.0


class Taken:
    """What a worker has taken over, and what hinders it."""

    def __init__(self) -> None:
        self.catalogs: list[Catalog] = []
        self.hindrances: list[Exception] = []
        self._news = asyncio.Condition()

    async def take(self, catalog: Catalog) -> None:
        if self.hindrances:
            raise self.hindrances.pop(0)
        async with self._news:
            self.catalogs.append(catalog)
            self._news.notify_all()

    async def once(self, reached: Callable[[Catalog], bool]) -> Catalog:
        """The newest catalog, once it is so."""
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(lambda: bool(self.catalogs) and reached(self.catalogs[-1]))
            return self.catalogs[-1]


@contextlib.asynccontextmanager
async def watched(*folders: Path) -> AsyncIterator[Taken]:
    taken = Taken()
    task = asyncio.create_task(watch(folders, snapshot(folders), taken.take, every_s=EVERY_S))
    try:
        yield taken
    finally:
        assert not task.done(), "the watcher gave up"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def logged(logs: list[dict[str, object]], event: str) -> dict[str, object]:
    """The entry, once it is there."""
    async with asyncio.timeout(WAIT_S):
        while True:
            for entry in logs:
                if entry["event"] == event:
                    return entry
            await asyncio.sleep(EVERY_S)


def has(*names: str) -> Callable[[Catalog], bool]:
    return lambda catalog: set(catalog.definitions) == set(names)


async def test_an_added_a_changed_and_a_removed_agent_are_taken_over(write: Write):
    folder = write("support.yaml", AGENT)
    async with watched(folder) as taken:
        write("agents/clerk.yaml", AGENT.replace("support", "clerk"))
        await taken.once(has("support", "clerk"))
        write("agents/clerk.yaml", AGENT.replace("support", "clerk") + "description: keeps the files\n")
        await taken.once(lambda catalog: catalog.definitions["clerk"].description == "keeps the files")
        (folder / "support.yaml").unlink()
        await taken.once(has("clerk"))


async def test_an_edited_tool_is_imported_anew(write: Write):
    folder = write("tools.py", TOOLS)
    write("shop/__init__.py", "")
    async with watched(folder) as taken:
        write("tools.py", TOOLS.replace("Look an order up.", "Find an order."))
        catalog = await taken.once(lambda catalog: catalog.tools["find_order"].spec.description == "Find an order.")
        assert await catalog.tools["find_order"]("W17") == "W17"


@pytest.mark.parametrize("changed", ["shop/prices.py", "_private.py"])
async def test_an_edit_of_what_tools_import_is_noticed(write: Write, changed: str):
    folder = write("shop/__init__.py", "")
    write(changed, "PRICE = 1\n")
    write("tools.py", f"from .{changed.removesuffix('.py').replace('/', '.')} import PRICE\n" + TOOLS.replace("Look", "{PRICE} Look"))
    async with watched(folder) as taken:
        write(changed, "PRICE = 2\n")
        await taken.once(lambda catalog: "find_order" in catalog.tools)


async def test_a_broken_edit_is_logged_and_the_old_catalog_stays(write: Write):
    folder = write("support.yaml", AGENT)
    with capture_logs() as logs:
        async with watched(folder) as taken:
            write("support.yaml", AGENT + "instruction: x\n")
            entry = await logged(logs, "agents.reload_refused")
            assert f"{folder / 'support.yaml'}:3: field instruction: is not known" in str(entry["problem"])
            assert taken.catalogs == []
            write("support.yaml", AGENT + "description: mended\n")
            await taken.once(lambda catalog: catalog.definitions["support"].description == "mended")
    assert sum(entry["event"] == "agents.reload_refused" for entry in logs) == 1, "a broken folder is told once, not every second"


async def test_a_change_that_cannot_be_stored_now_is_taken_over_later(write: Write):
    folder = write("support.yaml", AGENT)
    with capture_logs() as logs:
        async with watched(folder) as taken:
            taken.hindrances = [UnavailableError("the database is away"), UnavailableError("still away")]
            write("clerk.yaml", AGENT.replace("support", "clerk"))
            await taken.once(has("support", "clerk"))
    assert sum(entry["event"] == "agents.reload_postponed" for entry in logs) == 2


async def test_nothing_that_happens_ends_the_watch(write: Write, tmp_path: Path):
    folder = write("a/support.yaml", AGENT) / "a"
    with capture_logs() as logs:
        async with watched(folder) as taken:
            taken.hindrances = [RuntimeError("a bug")]
            write("a/clerk.yaml", AGENT.replace("support", "clerk"))
            await logged(logs, "agents.reload_failed")
            folder.rename(tmp_path / "away")
            await logged(logs, "agents.reload_refused")
            (tmp_path / "away").rename(folder)
            await taken.once(has("support", "clerk"))


def test_a_snapshot_of_a_folder_that_is_not_there_is_empty(tmp_path: Path):
    assert snapshot([tmp_path / "missing"]) == ()
