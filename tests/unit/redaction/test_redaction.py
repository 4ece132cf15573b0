"""Secrets leave the text, everything else stays."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.contracts import redaction
from workflows.contracts.redaction import add_secrets, is_secret_name, redact, redact_value, secrets_in

A = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
KEYS = {
    "openai_key": [f"sk-{A}", f"sk-proj-{A}_x-y", f"sk-svcacct-{A}", f"sk-or-v1-{A}", "sk-test-1234567890abcdef"],
    "anthropic_key": [f"sk-ant-api03-{A}-_{A}", "sk-ant-test1234"],
    "aws_key": ["AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"],
    "github_token": [f"ghp_{A}{A[:4]}", f"gho_{A}{A[:4]}", f"github_pat_{A[:22]}_{A}"],
    "gitlab_token": [f"glpat-{A[:20]}"],
    "slack_token": [f"xoxb-123456789012-{A}", f"xapp-1-A012-{A}"],
    "slack_webhook": ["hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"],
    "google_key": [f"AIza{A}abc"],
    "google_token": [f"ya29.{A}", f"GOCSPX-{A}"],
    "stripe_key": [f"sk_live_{A}", f"rk_test_{A}", f"whsec_{A}"],
    "huggingface_token": [f"hf_{A}ab"],
    "model_key": [f"gsk_{A}", f"xai-{A}"],
    "jwt": [f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{A}"],
    "private_key": [
        f"-----BEGIN {kind}PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{A}{A}\n{A}==\n-----END {kind}PRIVATE KEY-----"
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    ],
}
ALL_KEYS = [(kind, key) for kind, keys in KEYS.items() for key in keys]

ASSIGNED = [
    "password=hunter2",
    "DB_PASSWORD='x y z'",
    "Password: swordfish",
    "my password: hunter2 is not good",
    '{"password": "pass \\"word\\" 1"}',
    "{'passwd': 'hunter2'}",
    r"{\"api_key\": \"hunter2\"}",
    "OPENAI_API_KEY=hunter2",
    "x?api-key=hunter2&page=1",
    "clientSecret: 'hunter2'",
    "AWS_SECRET_ACCESS_KEY = hunter2",
    "access_token=hunter2",
    f"token: {A}",
    f"secret={A}",
    '"password": "a value that was cut o',
    "Authorization: Bearer hunter2",
    "Authorization: Basic dXNlcjpwYXNz",
    "('authorization', 'Bearer hunter2')",
    "x-api-key: hunter2",
    f"Bearer {A}",
    "postgres://user:hunter2@db:5432/app",
    "redis://:hunter2@cache/0",
    "https://user:p@ss:word@host",
]

ORDINARY = [
    "My order W1234567 came broken, please refund it to my card.",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "The task-force on risk-averse desk-lamps uses sk-learn and sk-SK; see sku sk-12345678-blue-xl.",
    "Your password: must be at least ten characters long. I forgot my password, and the token too.",
    "The secret: patience. A bearer of good news. The key is under the mat: look there.",
    "https://shop.example/orders?id=W1234567&page=2 and http://localhost:8080/a@b mail me@shop.example",
    "max_tokens: 1024, input_tokens=77, idempotency_key=run-1:3, key: 3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    '{"order_id": "#W2378156", "payment_method_id": "credit_card_9513926", "user_id": "yusuf_rossi_9620"}',
    "commit 21f31f8a0b1c2d3e4f5061728394a5b6c7d8e9f0 sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "password=None, api_key=${API_KEY}, token=null, api_key: <your key>, password=******, access_token={{token}}",
    "if password == other: x = a::b; PWD=/home/someone",
    "İstanbul'da sipariş: W12, 1:1 = 1",
]


@pytest.fixture(autouse=True)
def _forget_known_secrets() -> Iterator[None]:
    before = redaction._known, redaction._known_pattern
    yield
    redaction._known, redaction._known_pattern = before
    redaction._redacted_short.cache_clear()


@pytest.mark.parametrize(("kind", "key"), ALL_KEYS, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(ALL_KEYS)])
@pytest.mark.parametrize("around", ["{}", "before {} after", "'{}'", '{{"a": "{}"}}', "İ={},", "x\n{}\ny", "({})", "key:{};"])
def test_a_key_of_a_well_known_format_is_replaced_by_its_kind(kind: str, key: str, around: str) -> None:
    assert redact(around.format(key)) == around.format(f"[redacted:{kind}]")


@pytest.mark.parametrize("text", ASSIGNED)
def test_what_is_assigned_to_a_secrets_name_is_replaced(text: str) -> None:
    redacted = redact(text)
    assert "[redacted:" in redacted
    for part in ("hunter2", "swordfish", "dXNlcj", "p@ss", "word\\", A, "x y z", "was cut"):
        assert part not in redacted


def test_what_surrounds_an_assigned_secret_stays() -> None:
    assert redact("url ?api_key=hunter2&page=1 end") == "url ?api_key=[redacted:assigned]&page=1 end"
    assert redact("İ {'password': 'hunter2', 'n': 1}") == "İ {'password': '[redacted:assigned]', 'n': 1}"
    assert redact("postgres://u:hunter2@db:5432/app") == "postgres://u:[redacted:url_password]@db:5432/app"
    assert redact("Authorization: Bearer hunter2\nAccept: */*") == "Authorization: Bearer [redacted:authorization]\nAccept: */*"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_comes_back_as_the_same_object(text: str) -> None:
    assert redact(text) is text


@given(st.uuids(), st.integers(0, 10**9), st.sampled_from(["order", "key", "id", "run", "token count"]))
def test_ids_are_not_secrets(some_id: uuid.UUID, number: int, noun: str) -> None:
    text = f"{noun} {some_id} of #W{number:07d}, {noun}={number}; {noun}: {some_id} {some_id.hex}"
    assert redact(text) is text


PIECES = [
    *(key for _, key in ALL_KEYS),
    *ASSIGNED,
    *("password", "token", "api_key", "bearer", "authorization", "sk-", "eyJ", "://", "@", ":", "=", " ", "\n", '"', "'", "\\"),
    *("[redacted:assigned]", "[redacted:", "]", "-----BEGIN PRIVATE KEY-----", "-", "_", ".", "1", "a", "İ", "None", "must be"),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12))
def test_redacting_twice_is_redacting_once(pieces: list[str]) -> None:
    once = redact("".join(pieces))
    assert redact(once) == once


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.sampled_from([key for _, key in ALL_KEYS if len(key) < 120]), st.text(max_size=30))
def test_a_key_between_separators_never_survives(before: str, key: str, after: str) -> None:
    assert key not in redact(f"{before} {key} {after}")


def test_known_values_are_replaced_wherever_they_stand() -> None:
    add_secrets(["correct/horse battery", "correct/horse", "short", 'quo"ted-value', "redacted"])
    assert redact("a correct/horse battery b") == "a [redacted:secret] b"
    assert redact("xcorrect/horsex") == "x[redacted:secret]x"
    assert redact("url?q=correct%2Fhorse") == "url?q=[redacted:secret]"
    assert redact(json.dumps({"k": 'quo"ted-value'})) == '{"k": "[redacted:secret]"}'
    assert redact("short is a word") == "short is a word"
    assert redact(redact("it was redacted: sk-ant-test1234")) == redact("it was redacted: sk-ant-test1234")


def test_a_value_that_becomes_known_later_is_replaced_from_then_on() -> None:
    assert redact("a-label-4711") == "a-label-4711"
    add_secrets(["a-label-4711"])
    assert redact("a-label-4711") == "[redacted:secret]"


def test_secrets_of_the_environment_are_found_by_their_names_and_in_addresses() -> None:
    environ = {
        "OPENAI_API_KEY": "a-value-1",
        "DB_PASSWORD": "b-value-1",
        "HOME": "/home/x",
        "GITHUB_TOKEN": "c",
        "PAGE_TOKEN": "d",
        "DATABASE_URL": "postgresql://app:e%40value@db/app",
        "PLAIN_URL": "postgresql://postgres:postgres@db/postgres",
        "BROKEN_URL": "http://[::1",
    }
    assert secrets_in(environ) == ["a-value-1", "b-value-1", "c", "e@value"]


@pytest.mark.parametrize("name", ["password", "apiKey", "x-api-key", "Authorization", "set-cookie", "client_secret", "github_token"])
def test_a_secrets_name_is_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "input_tokens", "key", "order_key", "next_page_token", "step", "passenger", "monkey"])
def test_another_name_is_not_a_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_nested_values_are_redacted_with_keys_tuples_and_bytes() -> None:
    key = f"sk-ant-{A}"
    planted = {"a": [{"b": (key, 1, None, True)}], key: key.encode(), "password": 12345, "note": {"api_key": "x"}, "set": {key}}
    redacted = redact_value(planted)
    assert key not in repr(redacted)
    assert redacted["a"] == [{"b": ("[redacted:anthropic_key]", 1, None, True)}]
    assert redacted["password"] == "[redacted:assigned]"
    assert redacted["note"] == {"api_key": "[redacted:assigned]"}
    assert redact_value(redacted) == redacted


def test_a_schema_that_describes_a_password_keeps_its_shape() -> None:
    schema = {"properties": {"password": {"type": "string"}, "token_count": {"type": "integer"}}, "required": ["password"]}
    assert redact_value(schema) == schema


def test_endless_nesting_is_cut_off() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "[redacted:depth]" in repr(redact_value(loop))


ADVERSARIAL = {
    "sk- repeated": "sk-" * 333_000,
    "sk- with digits": "sk-1-" * 200_000,
    "jwt starts": "eyJ" * 333_000,
    "jwt segments": "eyJaaaaaaaaa." * 76_000,
    "pem starts": "-----BEGIN PRIVATE KEY-----" * 37_000,
    "pem dashes": "-----BEGIN PRIVATE KEY-----" + "- " * 500_000,
    "urls": "://a:" * 200_000,
    "at signs": "://a:b" + "@" * 1_000_000,
    "users": "://" + "a:" * 500_000 + "@ ",
    "passwords": "password=" * 110_000,
    "passwords with colons": "password: " * 100_000,
    "joined passwords": "password:" * 110_000 + "x",
    "quotes": 'password="' * 100_000,
    "backslashes": 'password="' + "\\" * 1_000_000,
    "bearers": "bearer " * 140_000,
    "headers": "authorization: " * 66_000,
    "spaces": "password" + " " * 1_000_000,
    "one letter": "a" * 1_000_000,
    "tokens": ("token=" + "a" * 30) * 28_000,
    "slack": "hooks.slack.com/services/" * 40_000,
}


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_time_stays_linear_on_hostile_text(text: str) -> None:
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 4  # measured: at most 0.2 s; quadratic behaviour takes minutes


def test_four_kilobytes_of_ordinary_text_cost_little() -> None:
    chosen = random.Random(7)
    words = ("the", "customer", "wrote", "that", "order", "arrived", "broken", "on", "Monday", "asks", "for", "a", "refund", "card:")
    text = " ".join(chosen.choice(words) for _ in range(900))[:4096]
    best_s = min(_seconds(text) for _ in range(20))
    assert best_s < 0.000_5  # measured: 26 µs on an idle core; the bound is loose for busy machines


def _seconds(text: str) -> float:
    started = time.perf_counter()
    redact(text)
    return time.perf_counter() - started
