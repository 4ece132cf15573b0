"""How batches are set, and what is said of a request whose batch failed as a whole."""

from __future__ import annotations

from datetime import UTC, datetime

import openai
import pytest
from openai.types import Batch
from pydantic import ValidationError

from activities.inference.keys import Keyring
from activities.inference.providers.batch_api import batch_api_of
from activities.inference.providers.openai_batches import OpenAIBatches
from activities.inference.providers.openai_chat import OpenAIChat
from state.batches import Batch as OurBatch
from workflows.contracts.inference import BatchSettings, InferenceSettings
from workflows.contracts.messages import Message, ModelRequest, Role


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"gather_s": -1}, "gather_s"),
        ({"max_requests": 0}, "max_requests"),
        ({"submit_timeout_s": 0}, "submit_timeout_s"),
        ({"submit_timeout_s": 1_000}, "submit_timeout_s"),
        ({"first_look_s": 0}, "first_look_s"),
        ({"first_look_s": 60, "longest_look_s": 30}, r"longest_look_s must be at least first_look_s \(60\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(given: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BatchSettings.model_validate(given)


@pytest.mark.parametrize(
    ("entry", "has"),
    [
        ({"dialect": "openai"}, True),
        ({"dialect": "openai", "batch_api": False}, False),
        ({"dialect": "openai", "base_url": "http://localhost:1/v1"}, False),
        ({"dialect": "openai", "base_url": "http://localhost:1/v1", "batch_api": True}, True),
        ({"dialect": "anthropic"}, True),
    ],
)
async def test_a_provider_has_a_batch_api_as_its_settings_say(entry: dict[str, object], has: bool) -> None:
    settings = InferenceSettings.model_validate({"providers": {"p": entry | {"api_key_env": "P_KEY"}}})
    keyring = Keyring({"P_KEY": "key-of-no-worth"})
    (key,) = keyring.view(settings).keys("p")
    assert (batch_api_of(key.provider) is not None) is has
    await keyring.aclose()


def test_a_custom_id_fits_both_providers_and_tells_whose_it_is() -> None:
    batch = OurBatch("hf-" + "0" * 24, "p", "k", "m", "sent", None, 0, datetime.now(UTC), 0.0)
    longest = batch.custom_id(2**63 - 1)
    assert len(longest) <= 64
    assert longest == f"{batch.batch_id}_{2**63 - 1}"


async def test_a_batch_that_failed_as_a_whole_says_nothing_of_its_requests_but_why() -> None:
    client = openai.AsyncOpenAI(api_key="key-of-no-worth", max_retries=0)
    provider = OpenAIChat("p", client)
    batches = OpenAIBatches(provider, client, "max_completion_tokens")
    request = ModelRequest(model="m", messages=(Message(role=Role.USER, text="x"),), max_output_tokens=1, idempotency_key="r:1")
    failed = Batch.model_validate(
        {
            "id": "b",
            "object": "batch",
            "completion_window": "24h",
            "created_at": 1,
            "endpoint": "/v1/chat/completions",
            "input_file_id": "f",
            "status": "failed",
            "errors": {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}]},
        }
    )
    result = batches._without_result(failed, "one", request)
    assert (result.response, result.error) == (None, None)
    assert "failed as a whole" in result.not_done
    assert "token_limit_exceeded" in result.not_done
    await provider.aclose()
