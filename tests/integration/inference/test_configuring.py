"""People change the configuration by client and command line: checked before it is written, refused with field and remedy."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from activities.inference.configuration import LiveSettings
from client.configuring import Configuration
from client.orchestrator import Orchestrator
from client.settings import Settings
from devstack.stack import RunningStack
from state.migrate import migrate
from state.notices import Notices
from state.pool import Database
from workflows.contracts.errors import ConfigurationConflictError, ConfigurationError

WITHIN_S = 60


@pytest.fixture
async def own_url(new_database_url: str) -> str:
    await migrate(new_database_url)
    return new_database_url


@pytest.fixture
async def config(stack: RunningStack, own_url: str) -> AsyncIterator[Configuration]:
    settings = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=own_url)
    async with Orchestrator.connect(settings) as holdfast:
        yield holdfast.config


async def test_a_value_is_set_got_and_unset_by_its_path(config: Configuration) -> None:
    path = 'models."openai:gpt-5.1".limits.requests_per_minute'
    assert (await config.set(path, 500, reason="a larger account", author="ann")).version == 1
    assert await config.get(path) == 500
    assert (await config.show()).document == {"models": {"openai:gpt-5.1": {"limits": {"requests_per_minute": 500}}}}
    await config.unset(path)
    assert (await config.show()).document == {}
    assert [(each.version, each.author) for each in await config.history()] == [(2, "python client"), (1, "ann")]
    assert await config.diff(1, 2) == ((path, 500, None),)
    await config.rollback(1)
    assert await config.get(path) == 500


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("limits.x", 1, "limits: there is no such field"),
        ("limiter.local_shar", 0.2, "did you mean 'local_share'"),
        ("limiter.local_share", 0, "limiter.local_share: input should be greater than 0"),
        ("tiers.smart", [], "tiers.smart: has no model: name at least one"),
        ("tiers.smart", "nobody:m", "tiers.smart: 'nobody:m' must be PROVIDER:MODEL with a provider of anthropic, openai"),
        ("tiers.smart", "openai:no-such-model-9", "tiers.smart: no price is known for 'openai:no-such-model-9'"),
        ("tiers.fast.downgrade_to", "none", "tiers.fast.downgrade_to: there is no tier 'none'"),
        ("budgets.day", {"scope": "global", "period": "day"}, "needs at least one of cost_usd, tokens, calls"),
        ("budgets.day.cost_usd", 5, "budgets.day.scope: field required"),
        ("providers.openai.base_url", "http://u:pa55-of-somebody@host/v1", "providers.openai.base_url: looks like a secret"),
        ("alerts.command", ["rm"], "alerts.command: programs are named in models.yaml only"),
        ('models."openai:m".limits.requests_per_minute', float("inf"), "not JSON"),
        ("tiers..x", 1, "is no path"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_field_and_remedy(config: Configuration, path: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await config.set(path, value)
    assert told in str(refused.value)
    assert (await config.show()).version == 0, "nothing was changed"


async def test_a_model_of_ones_own_price_or_a_declared_default_may_be_set(config: Configuration) -> None:
    await config.set('models."openai:own-1"', {"input_usd_per_million": 1, "output_usd_per_million": "2.5"})
    await config.set("tiers.smart", "openai:own-1")
    await config.set("unknown_price", {"input_usd_per_million": 10, "output_usd_per_million": 20})
    await config.set("tiers.smart", ["openai:own-2", "openai:own-1"])
    assert [each["model"] for each in await config.get("tiers.smart.candidates")] == ["openai:own-2", "openai:own-1"]


async def test_a_change_that_a_live_worker_could_not_use_is_refused(config: Configuration, own_url: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("providers: {own: {dialect: openai, prices: openai}}", encoding="utf-8")
    async with (
        Database.open(own_url) as database,
        Notices(database).open() as notices,
        LiveSettings(database, [file], {}, worker="knows").open(notices),
    ):
        await config.set("tiers.smart", "own:gpt-5")
        await config.rollback(0)
        async with LiveSettings(database, [], {}, worker="lacks").open(notices):
            with pytest.raises(ConfigurationError, match=r"tiers.smart: 'own:gpt-5' .* \(with the files of worker lacks\)"):
                await config.set("tiers.smart", "own:gpt-5")
            assert {(each.worker, each.live, each.problem) for each in await config.status()} == {
                ("knows", True, None),
                ("lacks", True, None),
            }


async def test_a_document_over_one_that_was_changed_meanwhile_is_refused(config: Configuration) -> None:
    await config.set("flags.a", 1, author="bob")
    with pytest.raises(ConfigurationConflictError, match="changed by bob meanwhile"):
        await config.apply({"flags": {"b": 1}}, expected_version=0)
    assert (await config.show()).document == {"flags": {"a": 1}}


async def test_the_command_line_changes_and_tells_the_configuration(stack: RunningStack, own_url: str, tmp_path: Path) -> None:
    environ = os.environ | {"DATABASE_URL": own_url, "TEMPORAL_ADDRESS": stack.temporal_address, "TEMPORAL_NAMESPACE": stack.namespace}

    async def holdfast(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "client.command_line.main", "config", *words]
        return await asyncio.to_thread(
            subprocess.run, command, env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=False, input=""
        )

    done = await holdfast("set", "tiers.smart", "[openai:gpt-5, openai:gpt-5-mini]", "--reason", "cheaper", "--by", "ann")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    refused = await holdfast("set", "limiter.local_shar", "1")
    assert refused.returncode == 2
    assert refused.stderr == "holdfast: limiter.local_shar: there is no such field; did you mean 'local_share'?\n"
    (tmp_path / "new.yaml").write_text("flags: {new: true}", encoding="utf-8")
    assert (await holdfast("apply", str(tmp_path / "new.yaml"))).returncode == 0
    assert (await holdfast("rollback", "1", "--json")).stdout == '{"version": 3, "woken": 0}\n'
    shown = json.loads((await holdfast("show", "--json")).stdout)
    assert shown["document"] == {"tiers": {"smart": {"candidates": ["openai:gpt-5", "openai:gpt-5-mini"]}}}
    assert "cheaper" in (await holdfast("history")).stdout
    assert (await holdfast("diff", "1", "2", "--json")).stdout.startswith('[{"path": "flags.new"')
    assert (await holdfast("status")).returncode == 0
