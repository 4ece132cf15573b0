"""What people are told of breakers and models, and what they set by hand."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, cast

import pytest

from activities.inference.breaker_rules import Scopes
from client import models
from client.backend import Backend
from client.breakers import BreakerControl
from state import configuration, runs, worker_keys
from state.configuration import Taken
from state.migrate import migrate
from state.pool import Database
from state.runs import NewRun
from tests.integration.inference.breaker_world import pass_time, told, worker
from workflows.contracts.errors import FailureClass, InvalidInputError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import Message, Role

FILES = {
    "providers": {
        "own": {
            "dialect": "openai",
            "base_url": "http://models.internal/v1",
            "keys": [{"name": "main", "env": "OWN_KEY", "weight": 3}, {"name": "spare", "command": ["vault", "secret-argument"]}],
            "limits": {"requests_per_minute": 100},
        },
        "openai": {"dialect": "openai", "api_key_env": "OPENAI_API_KEY"},
    },
    "tiers": {"smart": ["own:m", "openai:gpt-5"]},
    "models": {"own:m": {"input_usd_per_million": 1, "output_usd_per_million": 2, "context_window_tokens": 9000}},
}


@pytest.fixture
async def own(new_database_url: str) -> AsyncIterator[Database]:
    """A database that knows one worker with these files."""
    await migrate(new_database_url)
    async with Database.open(new_database_url) as opened:
        settings = InferenceSettings.model_validate(FILES).model_dump(mode="json")
        await configuration.tell(opened, Taken(worker="w1", version=0, refused=None, problem=None, file_settings=settings))
        yield opened


@pytest.fixture
def backend(own: Database) -> Backend:
    return Backend(cast("Any", None), cast("Any", None), own, cast("Any", None))


@pytest.fixture
def control(backend: Backend) -> BreakerControl:
    return BreakerControl(backend)


async def test_a_breaker_is_held_by_hand_and_let_go_again(own: Database, control: BreakerControl) -> None:
    scope, scopes = "provider:own", Scopes("own", "m", "main")
    one = worker(own, "one")
    assert models.told(await control.open(scope, reason="they mend it", by="anna")) == "held open by anna: they mend it"
    await told(one)
    assert one.standing(scopes).reason == "held open by anna: they mend it"
    assert models.told(await control.close(scope, by="bob")) == "held closed by bob"
    await told(one)
    assert one.standing(scopes).free
    assert models.told(await control.auto(scope, by="bob")) == "closed"
    assert [each.scope for each in await control.list()] == [scope]


async def test_a_breaker_is_told_as_it_stands(own: Database, control: BreakerControl) -> None:
    one, scopes = worker(own, "one"), Scopes("own", "m", "main")
    one.failed(scopes.names, FailureClass.QUOTA, code="insufficient_quota")
    one.failed(scopes.names, FailureClass.THROTTLED, code="429", retry_after_s=30)
    await told(one)
    found = {each.scope: models.told(each) for each in await control.list()}
    assert found["key:own/main"].startswith("open, probe in ")
    assert found["key:own/main"].endswith("quota (insufficient_quota)")
    assert found["key:own/main:m"].startswith("cooling for ")
    await pass_time(own, 600)
    await told(one)
    assert "probe is due" in models.told(next(each for each in await control.list() if each.scope == "key:own/main"))
    assert await one.claim_probe(*scopes)
    assert models.told(next(each for each in await control.list() if each.scope == "key:own/main")).startswith("probing")


@pytest.mark.parametrize(
    ("scope", "problem"),
    [
        ("openai", "is no breaker: name it as provider:NAME"),
        ("provider:", "is no breaker"),
        ("model:own", "is no breaker"),
        ("provider:nobody", "no provider 'nobody' is configured: name one of openai, own"),
        ("key:nobody/main", "no provider 'nobody'"),
    ],
)
async def test_a_scope_that_cannot_be_is_refused(control: BreakerControl, scope: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        await control.open(scope, reason="why")
    assert await control.list() == ()


async def test_nothing_is_opened_without_a_reason(control: BreakerControl) -> None:
    with pytest.raises(InvalidInputError, match="--reason"):
        await control.open("provider:own", reason=" ")


async def test_models_are_told_with_price_keys_state_and_use_and_without_secrets(own: Database, backend: Backend) -> None:
    one = worker(own, "one")
    one.failed(Scopes("own", "m", "spare").names, FailureClass.CALLER, code="invalid_api_key")
    await told(one)
    here = [worker_keys.KeyRow("own", "main", "OWN_KEY", None), worker_keys.KeyRow("own", "spare", "command vault", None)]
    await worker_keys.tell(own, "w1", here)
    await worker_keys.tell(own, "w2", [worker_keys.KeyRow("own", "main", "OWN_KEY", "OWN_KEY is not set")])
    await _called(own, "main", "recorded", Decimal("0.5"))
    await _called(own, "main", "failed", Decimal(0))

    found = await models.report(backend)

    mine, table = (next(each for each in found.models if each.name == name) for name in ("own:m", "openai:gpt-5"))
    assert (mine.tiers, mine.input_usd_per_million, mine.output_usd_per_million, mine.context_window_tokens) == (("smart",), 1, 2, 9000)
    assert (mine.calls, mine.failed, mine.share, mine.cost_usd, mine.breaker) == (2, 1, 1.0, Decimal("0.5"), "closed")
    assert mine.last_at is not None
    assert table.input_usd_per_million, "it is in the price table"
    assert table.calls == 0
    provider = next(each for each in found.providers if each.name == "own")
    assert (provider.limits, provider.breaker) == ({"requests_per_minute": 100}, "closed")
    main, spare = provider.keys
    assert (main.workers, main.problems, main.calls, main.weight) == (1, ("OWN_KEY is not set",), 2, 3)
    assert (spare.workers, spare.source) == (1, "command vault")
    assert spare.breaker.startswith("open, probe in")
    assert "secret-argument" not in str(found)


async def _called(database: Database, key: str, state: str, cost_usd: Decimal) -> None:
    """A call of `own:m` in the ledger."""
    run_id = f"models-{uuid.uuid4().hex[:8]}"
    new = NewRun(run_id, "default", "support", "hash", None, None, "body", Decimal(5))
    await runs.create(database, new, Message(role=Role.USER, text="hello"))
    await database.execute(
        "insert into model_calls (run_id, step, attempt, state, agent, provider, model, asked_model, reserved_usd, worker, key, cost_usd) "
        "values ($1, 1, 1, $2, 'support', 'own', 'm-2026', 'm', 1, 'w1', $3, $4)",
        run_id,
        state,
        key,
        cost_usd,
    )
