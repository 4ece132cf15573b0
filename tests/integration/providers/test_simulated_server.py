"""The simulated provider as a server: limits, headers, control, journal, and its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from activities.inference.providers.catalog import Dialect
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.journal import Delivery, billed_usage
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import ModelRequest

MakeRequest = Callable[..., ModelRequest]
Post = Callable[..., Any]

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = CHAT | {"max_tokens": 100}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        yield session


async def test_limits_are_enforced_and_told_in_openais_headers(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    sim.change_limits({"m": Limits(requests_per_minute=2, tokens_per_minute=1000)})
    statuses = []
    for _ in range(3):
        async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
            statuses.append(answer.status)
            headers = answer.headers
    assert statuses == [200, 200, 429]
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert int(headers["x-ratelimit-remaining-tokens"]) < 1000
    assert 28 <= int(headers["retry-after"]) <= 30
    assert headers["x-simulated"] == "1"


async def test_limits_are_enforced_and_told_in_anthropics_headers(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    sim.change_limits({"m": Limits(requests_per_minute=1, input_tokens_per_minute=500, output_tokens_per_minute=100)})
    for expected in (200, 429):
        async with http.post(f"{sim.anthropic_url}/v1/messages", json=MESSAGES) as answer:
            assert answer.status == expected
            headers = answer.headers
    assert headers["anthropic-ratelimit-requests-limit"] == "1"
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "500"
    assert headers["anthropic-ratelimit-output-tokens-reset"].endswith("Z")
    assert int(headers["retry-after"]) >= 58


async def test_an_exceeded_limit_is_throttled_with_the_time_to_wait(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.change_limits({"*": Limits(requests_per_minute=1)})
    await provider.complete(make_request(), lambda _: None)
    with pytest.raises(StepError) as caught:
        await provider.complete(make_request(), lambda _: None)
    assert caught.value.failure_class is FailureClass.THROTTLED
    assert caught.value.retry_after_s is not None
    assert 58 <= caught.value.retry_after_s <= 60
    assert [entry.fault for entry in sim.journal()] == [None, "limit"]


async def test_answers_without_a_stream_are_what_the_sdks_expect(sim: SimulatedProvider) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=sim.openai_url) as chat:
        completion = await chat.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert completion.choices[0].message.content
    assert completion.id.startswith("sim-chatcmpl-")
    async with anthropic.AsyncAnthropic(api_key="k", base_url=sim.anthropic_url) as messages:
        message = await messages.messages.create(model="m", max_tokens=100, messages=[{"role": "user", "content": "hi"}])
    assert message.content[0].type == "text"
    assert message.id.startswith("sim-msg-")
    assert [entry.streamed for entry in sim.journal()] == [False, False]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/chat/completions", b"{oops", "JSON"),
        ("/v1/chat/completions", b"[]", "object"),
        ("/v1/chat/completions", b"{}", "model"),
        ("/v1/chat/completions", b'{"model": "m", "messages": []}', "messages"),
        ("/v1/chat/completions", b'{"model": "m", "messages": [{"role": "poet", "content": ""}]}', "poet"),
        ("/v1/messages", b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}', "max_tokens"),
        ("/v1/messages", b'{"model": "m", "max_tokens": 5, "messages": [{"role": "system", "content": "hi"}]}', "system"),
        ("/v1/messages", b'{"model": "m", "max_tokens": 5, "messages": [{"role": "user"}]}', "content"),
    ],
)
async def test_a_request_that_breaks_the_dialect_is_refused_and_says_why(
    path: str, body: bytes, named: str, sim: SimulatedProvider, http: aiohttp.ClientSession
) -> None:
    async with http.post(sim.url + path, data=body) as answer:
        assert answer.status == 400
        assert named in (await answer.json())["error"]["message"]


async def test_a_key_is_needed_and_only_known_keys_pass_when_keys_are_given(sim: SimulatedProvider) -> None:
    async with aiohttp.ClientSession() as nobody, nobody.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
        assert answer.status == 401
    sim.keys = frozenset({"good"})
    async with aiohttp.ClientSession() as session:
        for key, status in (("good", 200), ("bad", 401)):
            async with session.post(f"{sim.anthropic_url}/v1/messages", json=MESSAGES, headers={"x-api-key": key}) as answer:
                assert answer.status == status


async def test_a_policy_that_raises_is_a_server_error_and_shows_in_the_journal(
    http: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str]
) -> None:
    def policy(request: SimulatedRequest) -> SimulatedAnswer:
        raise ZeroDivisionError

    async with simulated_provider(policy) as sim, http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
        assert answer.status == 500
        assert sim.journal()[0].fault == "policy_raised"
    assert "ZeroDivisionError" in capsys.readouterr().err


async def test_a_client_that_hangs_up_is_billed_and_seen_to_be_gone(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.latency["*"] = Latency(first_token_s=30)
    call = asyncio.create_task(provider.complete(make_request(), lambda _: None))
    async with asyncio.timeout(5):
        while not sim.journal():  # noqa: ASYNC110  the server tells nobody that a request came in
            await asyncio.sleep(0.005)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.wait_for(sim.idle(), 5)
    (entry,) = sim.journal()
    assert (entry.delivery, entry.billed) == (Delivery.CLIENT_GONE, True)
    assert entry.usage is not None
    assert billed_usage(sim.journal()) == entry.usage


async def test_everything_can_be_controlled_over_http(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    control = f"{sim.url}/control"
    async with http.get(f"{control}/health") as answer:
        assert (await answer.json())["simulated"] is True
    async with http.post(f"{control}/faults", json=[{"kind": "quota", "count": 1}, {"kind": "overloaded", "nth": 9}]) as answer:
        assert answer.status == 201
    async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
        assert answer.status == 429
    async with http.get(f"{control}/faults") as answer:
        assert [rule["fired"] for rule in await answer.json()] == [1, 0]
    async with http.delete(f"{control}/faults") as answer:
        assert answer.status == 204
    async with http.put(f"{control}/limits", json={"m": {"requests_per_minute": 1}}) as answer:
        assert answer.status == 204
    async with http.put(f"{control}/latency", json={"*": {"first_token_s": 0.001}}) as answer:
        assert answer.status == 204
    statuses = []
    for _ in range(2):
        async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 429]
    async with http.get(f"{control}/journal", params={"after": "1"}) as answer:
        assert [(entry["sequence"], entry["status"]) for entry in await answer.json()] == [(2, 200), (3, 429)]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "faults", {"kind": "nope"}),
        ("POST", "faults", "nonsense"),
        ("PUT", "limits", {"m": {"requests_per_minute": 0}}),
        ("PUT", "latency", {"*": {"jitter": 5}}),
        ("GET", "journal?after=x", None),
    ],
)
async def test_a_control_request_that_makes_no_sense_is_refused(
    method: str, path: str, body: object, sim: SimulatedProvider, http: aiohttp.ClientSession
) -> None:
    async with http.request(method, f"{sim.url}/control/{path}", json=body) as answer:
        assert answer.status == 422


async def test_the_journal_file_holds_what_the_memory_holds(
    tmp_path: Path, connect: Callable[..., Provider], make_request: MakeRequest
) -> None:
    path = tmp_path / "journal.jsonl"
    async with simulated_provider(journal_path=path) as sim:
        sim.add_fault(Fault(kind=FaultKind.OVERLOADED, nth=2))
        provider = connect(sim, Dialect.OPENAI)
        await provider.complete(make_request(), lambda _: None)
        with pytest.raises(StepError):
            await provider.complete(make_request(), lambda _: None)
        await asyncio.wait_for(sim.idle(), 5)
        expected = [entry.as_json() for entry in sim.journal()]
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    assert [entry["fault"] for entry in expected] == [None, "overloaded"]
    assert expected[0]["idempotency_key"] == "run-1/3"


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, and leaves none behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ready_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


async def test_the_command_serves_and_ends_on_sigterm(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    journal = tmp_path / "journal.jsonl"
    process = spawn("-m", "devstack.simulated_provider", "--journal", str(journal), "--fault", "quota,nth=2")
    ready = ready_line(process)
    statuses = []
    for _ in range(2):
        async with http.post(f"{ready['openai_url']}/chat/completions", json=CHAT) as answer:
            statuses.append(answer.status)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert statuses == [200, 429]
    assert len(journal.read_text().splitlines()) == 2


async def test_the_command_names_a_port_that_is_in_use(sim: SimulatedProvider) -> None:
    command = [sys.executable, "-m", "devstack.simulated_provider", "--port", str(sim.port)]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert str(sim.port) in ended.stderr


async def test_the_command_ends_with_its_parent(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'devstack.simulated_provider', '--die-with-parent'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "sys.stdout.write(f'{child.pid} {child.stdout.readline()}')\n"
        "sys.stdout.flush()\n"
        "time.sleep(60)\n"
    )
    parent = spawn("-c", code)
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[0])
    os.kill(child, 0)  # it lives
    parent.kill()
    async with asyncio.timeout(10):
        while _alive(child):  # noqa: ASYNC110  an orphan's end can only be looked for
            await asyncio.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
