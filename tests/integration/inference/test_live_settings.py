"""A change of the configuration reaches every worker that can use it, and is refused by those that cannot."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from activities.inference.configuration import LOOK_EVERY_S, LiveSettings
from state import configuration
from state.configuration import Change
from state.migrate import migrate
from state.notices import Notices
from state.pool import Database
from workflows.contracts.errors import ConfigurationConflictError, ConfigurationError, SettingsError
from workflows.contracts.inference import InferenceSettings

POLL_S = 0.01


@pytest.fixture
async def own(new_database_url: str) -> AsyncIterator[Database]:
    """A migrated database of this test's own: the configuration is one for all who share a database."""
    await migrate(new_database_url)
    async with Database.open(new_database_url) as opened:
        yield opened


def models_yaml(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@contextlib.asynccontextmanager
async def live(database: Database, *files: Path, worker: str = "w1") -> AsyncIterator[LiveSettings]:
    """Settings as a worker of this name has them."""
    async with Notices(database).open() as notices, LiveSettings(database, files, {}, worker=worker).open(notices) as opened:
        yield opened


async def change(database: Database, document: dict[str, Any], expected_version: int = 0, author: str = "ann") -> int:
    wanted = Change(document=document, author=author, reason="a test", expected_version=expected_version)
    return await configuration.change(database, wanted)


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(int(20 / POLL_S)):
        if condition():
            return
        await asyncio.sleep(POLL_S)
    pytest.fail(f"waited in vain until {what}")


async def test_a_change_reaches_every_worker_of_the_database(own: Database) -> None:
    async with live(own, worker="w1") as one, live(own, worker="w2") as two:
        assert one.version == two.version == 0
        version = await change(own, {"tiers": {"smart": "openai:gpt-5"}})
        await until(lambda: one.version == two.version == version, "both have the version")
        assert one.settings.tiers["smart"].models == two.settings.tiers["smart"].models == ("openai:gpt-5",)
        assert one.settings.tiers["fast"].models == ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5"), "what is not set stays"
        assert [(row.worker, row.version, row.live) for row in await configuration.workers(own)] == [("w1", 1, True), ("w2", 1, True)]


async def test_a_document_is_laid_over_the_files_field_by_field(own: Database, tmp_path: Path) -> None:
    file = models_yaml(tmp_path, "models: {'openai:own': {input_usd_per_million: 1, output_usd_per_million: 2, tools: false}}")
    async with live(own, file) as settings:
        await change(own, {"models": {"openai:own": {"limits": {"requests_per_minute": 100}, "tools": None}}})
        await until(lambda: settings.version == 1, "the version is taken over")
        own_model = settings.settings.models["openai:own"]
        assert own_model.limits.requests_per_minute == 100
        assert own_model.priced, "the file's price stays"
        assert own_model.tools, "null takes the file's value away: the default counts"


async def test_a_change_whose_notice_is_lost_is_found_by_the_poll(own: Database) -> None:
    deaf = Notices(own)
    async with LiveSettings(own, (), {}, worker="w1").open(deaf) as settings:  # its notices are never opened
        await change(own, {"flags": {"on": True}})
        await until(lambda: settings.version == 1, f"the poll of {LOOK_EVERY_S} s finds it")
        assert settings.settings.flags == {"on": True}


async def test_a_change_during_a_lost_connection_is_taken_over(own: Database, new_database_url: str) -> None:
    async with live(own) as settings:
        beside = await asyncpg.connect(new_database_url)
        try:
            killed = await beside.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            assert killed >= 1, "nobody was listening"
            await beside.execute("select * from change_configuration(0, '{\"flags\": {\"on\": true}}', 'ann', '', null)")
        finally:
            await beside.close()
        await until(lambda: settings.version == 1, "the version is taken over")


async def test_of_two_writers_at_once_one_is_refused_and_told_by_whom(own: Database) -> None:
    both = await asyncio.gather(
        change(own, {"flags": {"a": 1}}, author="ann"), change(own, {"flags": {"b": 1}}, author="bob"), return_exceptions=True
    )
    refused = [each for each in both if isinstance(each, ConfigurationConflictError)]
    assert len(refused) == 1
    winner = (await configuration.current(own)).author
    assert f"changed by {winner} meanwhile" in str(refused[0])
    assert len(await configuration.history(own)) == 1


async def test_a_rollback_is_a_version_of_its_own(own: Database) -> None:
    async with live(own) as settings:
        await change(own, {"flags": {"a": 1}})
        await change(own, {"flags": {"a": 2}}, expected_version=1)
        assert await configuration.rollback(own, 1, "ann", "too much", expected_version=2) == 3
        await until(lambda: settings.version == 3, "the rollback is taken over")
        assert settings.settings.flags == {"a": 1}
        assert (await configuration.current(own)).rolled_back_to == 1
        await configuration.rollback(own, 0, "ann", "", expected_version=3)
        await until(lambda: settings.version == 4, "nothing is set again")
        assert settings.settings.flags == {}


@pytest.mark.parametrize("statement", ["update configuration_versions set author = 'eve'", "delete from configuration_versions"])
async def test_no_version_can_be_rewritten(own: Database, statement: str) -> None:
    await change(own, {})
    with pytest.raises(asyncpg.RaiseError, match="only ever added"):
        await own.execute(statement)


async def test_a_worker_whose_files_contradict_a_version_stays_with_its_own_and_says_why(own: Database, tmp_path: Path) -> None:
    knows = models_yaml(tmp_path / "a", "providers: {own: {dialect: openai}}")
    async with live(own, knows, worker="knows") as able, live(own, worker="lacks") as unable:
        await change(own, {"tiers": {"smart": "own:m"}})
        await until(lambda: able.version == 1 and unable.problem is not None, "one takes it over, the other refuses")
        assert unable.version == 0
        assert unable.settings.tiers["smart"].models[0] == "openai:gpt-5.1"
        rows = {row.worker: row for row in await configuration.workers(own)}
        assert (rows["knows"].version, rows["knows"].problem) == (1, None)
        assert (rows["lacks"].version, rows["lacks"].refused) == (0, 1)
        assert "tiers.smart: 'own:m' must be PROVIDER:MODEL with a provider of anthropic, openai" in (rows["lacks"].problem or "")
        await change(own, {}, expected_version=1)
        await until(lambda: unable.version == 2 and unable.problem is None, "the next version heals it")


async def test_a_worker_that_starts_takes_the_newest_version_that_fits_its_files(own: Database) -> None:
    await change(own, {"flags": {"a": 1}})
    await change(own, {"flags": {"a": 2}, "tiers": {"smart": "own:m"}}, expected_version=1)
    async with live(own) as settings:
        assert settings.version == 1
        assert settings.settings.flags == {"a": 1}
        assert (await configuration.workers(own))[0].refused == 2


async def test_changed_files_are_laid_under_the_same_version_again(own: Database, tmp_path: Path) -> None:
    file = models_yaml(tmp_path, "providers: {own: {dialect: openai}}")
    async with live(own, file) as settings:
        await change(own, {"tiers": {"smart": "own:m"}})
        await until(lambda: settings.version == 1, "the version is taken over")
        models_yaml(tmp_path, "providers: {own: {dialect: anthropic}}")
        await settings.take_files([file])
        assert settings.settings.providers["own"].dialect == "anthropic"
        assert settings.settings.tiers["smart"].models == ("own:m",)
        models_yaml(tmp_path)
        with pytest.raises(ConfigurationError, match="'own:m' must be PROVIDER:MODEL"):
            await settings.take_files([file])
        assert "own" in settings.settings.providers, "the old files count on"


async def test_settings_that_a_part_of_the_worker_cannot_use_never_count(own: Database) -> None:
    taken: list[InferenceSettings] = []

    def opens(settings: InferenceSettings) -> None:
        if "bad" in settings.flags:
            raise SettingsError("flags.bad: cannot be opened.")

    settings = LiveSettings(own, (), {}, worker="w1")
    settings.on_change(taken.append)
    settings.on_change(opens)
    async with Notices(own).open() as notices, settings.open(notices):
        await change(own, {"flags": {"bad": True}})
        await until(lambda: settings.problem is not None, "it is refused")
        assert settings.version == 0
        assert [each.flags for each in taken] == [{}, {"bad": True}, {}], "who had taken it already got the old ones back"


async def test_references_to_the_environment_are_read_on_the_worker_only(own: Database) -> None:
    settings = LiveSettings(own, (), {"OWN_URL": "http://here/v1"}, worker="w1")
    async with Notices(own).open() as notices, settings.open(notices):
        await change(own, {"providers": {"openai": {"base_url": "${env:OWN_URL}"}}})
        await until(lambda: settings.version == 1, "the version is taken over")
        assert settings.settings.providers["openai"].base_url == "http://here/v1"


async def test_a_worker_that_ends_is_no_longer_live_and_its_files_stay_known(own: Database, tmp_path: Path) -> None:
    async with live(own, models_yaml(tmp_path, "providers: {own: {dialect: openai}}")):
        assert (await configuration.workers(own))[0].live
    row = (await configuration.workers(own))[0]
    assert not row.live
    assert "own" in row.file_settings["providers"]
