from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.inference.providers.failures import conceal, failure_class, read_failure, retry_after_s, step_error
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Message, ModelRequest, Role, ToolCall

REQUEST = ModelRequest(
    model="m",
    messages=(
        Message(role=Role.USER, text="My card number is 4111 1111 1111 1111, please refund me."),
        Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id="1", name="refund", arguments='{"iban": "DE02120300000000202051"}'),)),
    ),
    max_output_tokens=10,
    idempotency_key="r/1",
)


def openai_body(kind: str, code: str | None, message: str = "") -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}  # the SDK has unwrapped it


def anthropic_body(kind: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, **more}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # codes before statuses
        (429, openai_body("insufficient_quota", "insufficient_quota"), FailureClass.QUOTA),
        (429, openai_body("requests", "rate_limit_exceeded"), FailureClass.THROTTLED),
        (429, openai_body("tokens", "rate_limit_exceeded", "Request too large for m on tokens per min"), FailureClass.CONTEXT),
        (403, openai_body("billing_not_active", None), FailureClass.QUOTA),
        (400, openai_body("invalid_request_error", "context_length_exceeded"), FailureClass.CONTEXT),
        (400, openai_body("BadRequestError", None, "This model's maximum context length is 4096 tokens."), FailureClass.CONTEXT),
        (400, openai_body("exceed_context_size_error", None), FailureClass.CONTEXT),
        (400, openai_body("invalid_request_error", "unsupported_parameter"), FailureClass.CALLER),
        (401, openai_body("invalid_request_error", "invalid_api_key"), FailureClass.CALLER),
        (404, openai_body("invalid_request_error", "model_not_found"), FailureClass.CALLER),
        (413, openai_body("invalid_request_error", None), FailureClass.CALLER),
        (422, {"detail": "value is not a valid list"}, FailureClass.CALLER),
        (429, openai_body("invalid_request_error", None), FailureClass.THROTTLED),
        (503, openai_body("server_error", "slow_down"), FailureClass.TRANSIENT),
        (200, openai_body("server_error", None), FailureClass.TRANSIENT),
        (200, {"error": {"message": "upstream is gone", "code": 502}}, FailureClass.TRANSIENT),
        (200, {"error": {"message": "slow down", "code": 429}}, FailureClass.THROTTLED),
        (200, {"error": {"message": "bad input", "code": 400, "type": "BadRequestError"}}, FailureClass.CALLER),
        (200, openai_body("invalid_request_error", None), FailureClass.CALLER),
        (200, anthropic_body("overloaded_error"), FailureClass.TRANSIENT),
        (200, anthropic_body("rate_limit_error"), FailureClass.THROTTLED),
        (200, anthropic_body("something_new"), FailureClass.TRANSIENT),
        (400, anthropic_body("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), FailureClass.CONTEXT),
        (
            400,
            anthropic_body("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
            FailureClass.CONTEXT,
        ),
        (
            400,
            anthropic_body("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            FailureClass.QUOTA,
        ),
        (402, anthropic_body("billing_error"), FailureClass.QUOTA),
        (429, anthropic_body("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}), FailureClass.QUOTA),
        (429, anthropic_body("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}), FailureClass.THROTTLED),
        (529, anthropic_body("overloaded_error"), FailureClass.TRANSIENT),
        # statuses alone: proxies answer with pages of HTML or nothing
        (408, None, FailureClass.TRANSIENT),
        (409, None, FailureClass.TRANSIENT),
        (425, None, FailureClass.TRANSIENT),
        (429, "<html>slow down</html>", FailureClass.THROTTLED),
        (402, None, FailureClass.QUOTA),
        (403, "<html>no</html>", FailureClass.CALLER),
        (500, b"", FailureClass.TRANSIENT),
        (502, "<html>Bad gateway</html>", FailureClass.TRANSIENT),
        (529, None, FailureClass.TRANSIENT),
        (418, None, FailureClass.CALLER),
        (404, {"error": "model 'llama' not found"}, FailureClass.CALLER),
    ],
)
def test_what_a_provider_says_has_one_class(status: int, body: Any, expected: FailureClass) -> None:
    assert failure_class(read_failure(status, body, {})) is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(deadline=None)
@given(st.integers(100, 999), json_values | st.dictionaries(st.sampled_from(["error", "code", "type", "message", "detail"]), json_values))
def test_any_body_whatever_gives_an_error_with_a_class(status: int, body: Any) -> None:
    error = step_error("p", read_failure(status, body, {}), REQUEST)
    assert error.failure_class in FailureClass
    assert len(str(error)) < 1000


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 12 "}, 12.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        # our clock is an hour behind: the answer's own date is what counts
        ({"retry-after": formatdate(NOW + 3630, usegmt=True), "date": formatdate(NOW + 3600, usegmt=True)}, 30.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Fri, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_a_time_to_wait_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, now=NOW) == expected


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_header_value_can_break_the_reading(value: str) -> None:
    waiting = retry_after_s({"retry-after": value, "retry-after-ms": value})
    assert waiting is None or 0 <= waiting < float("inf")


def test_a_message_loses_the_keys_it_holds() -> None:
    said = conceal("Incorrect API key provided: my-own-secret-key. Also sk-proj-abcdefghijklmnop1234", REQUEST, ["my-own-secret-key"])
    assert "my-own-secret-key" not in said
    assert "abcdefghijklmnop1234" not in said
    assert said.startswith("Incorrect API key provided:")


def test_a_message_loses_what_it_quotes_of_the_conversation() -> None:
    said = conceal('Invalid input: "My card number is 4111 1111 1111 1111, please" in messages[0]', REQUEST)
    assert "4111" not in said
    assert said == 'Invalid input: "…" in messages[0]'
    assert "DE0212" not in conceal('arguments {"iban": "DE02120300000000202051"} are wrong', REQUEST)


def test_a_message_is_cut_at_300_characters_and_made_one_line() -> None:
    said = conceal("too\nlong " * 200, REQUEST)
    assert len(said) == 300
    assert "\n" not in said


def test_an_error_names_provider_status_and_code() -> None:
    error = step_error("openai", read_failure(404, openai_body("invalid_request_error", "model_not_found", "No model `x`."), {}), REQUEST)
    assert str(error) == "openai answered 404 (model_not_found): No model `x`."
    assert error.code == "model_not_found"


@pytest.mark.parametrize(
    ("status", "body", "unknown"),
    [(504, "<html>", True), (502, None, True), (500, None, False), (429, None, False), (400, None, False)],
)
def test_only_a_proxy_that_gave_up_waiting_leaves_the_spend_unknown(status: int, body: Any, unknown: bool) -> None:
    assert step_error("p", read_failure(status, body, {}), REQUEST).spend_unknown is unknown


def test_a_refusal_with_the_providers_own_code_is_not_billed() -> None:
    assert not step_error("p", read_failure(408, openai_body("server_error", None), {}), REQUEST).spend_unknown
