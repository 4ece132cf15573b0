"""The simulated provider's command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from devstack.simulated_provider.answering import plain_policy
from devstack.simulated_provider.faults import Fault
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.loading import load_policy
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.errors import SettingsError

EXIT_USAGE = 2
_PARENT_CHECK_S = 0.5
_Rule = TypeVar("_Rule", bound=BaseModel)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM. Returns 0, or 2 when the arguments are wrong."""
    options = _parser().parse_args(arguments)
    try:
        provider = _provider(options)
        asyncio.run(_serve(provider, options.die_with_parent))
    except SettingsError as error:
        sys.stderr.write(f"simulated provider: {error}\n")
        return EXIT_USAGE
    except OSError as error:
        sys.stderr.write(f"simulated provider: cannot listen on port {options.port} or write the journal: {error.strerror}\n")
        return EXIT_USAGE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.simulated_provider",
        description="A model provider with no model behind it, in the OpenAI and Anthropic dialects, on 127.0.0.1.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 takes a free one; the ready line on standard output names it")
    add("--policy", help="what the model answers: package.module:function or path/to/file.py:function")
    add("--journal", type=Path, help="write one JSON line a request to this file")
    add("--fault", action="append", default=[], metavar="KIND,FIELD=VALUE,…", help="as in rate_limited,nth=3,retry_after_s=2")
    add("--limit", action="append", default=[], metavar="MODEL,FIELD=VALUE,…", help="as in *,requests_per_minute=100")
    add("--limit-later", action="append", default=[], metavar="SECONDS,MODEL,FIELD=VALUE,…", help="a limit that comes into force later")
    add("--latency", action="append", default=[], metavar="MODEL,FIELD=VALUE,…", help="as in *,first_token_s=0.3")
    add("--key", action="append", help="accept only this API key (many allowed); without it every key is accepted")
    add("--batch-s", type=float, default=0.0, help="seconds that a batch takes")
    add("--seed", type=int, default=0, help="for jitter")
    add(
        "--die-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when the process that started this one has ended; naming its id closes the gap while this one starts",
    )
    return parser


def _provider(options: argparse.Namespace) -> SimulatedProvider:
    provider = SimulatedProvider(
        policy=load_policy(options.policy) if options.policy else plain_policy,
        limits=dict(_named_rule(Limits, "--limit", text) for text in options.limit),
        latency=dict(_named_rule(Latency, "--latency", text) for text in options.latency),
        keys=frozenset(options.key) if options.key else None,
        journal_path=options.journal,
        port=options.port,
        seed=options.seed,
        batch_s=options.batch_s,
    )
    for text in options.limit_later:
        after_s, _, rest = text.partition(",")
        provider.changes.append((_seconds("--limit-later", after_s), dict([_named_rule(Limits, "--limit-later", rest)])))
    for text in options.fault:
        head, fields = _fields("--fault", text)
        provider.add_fault(_rule(Fault, "--fault", text, {"kind": head, **fields}))
    return provider


def _named_rule(model: type[_Rule], flag: str, text: str) -> tuple[str, _Rule]:
    head, fields = _fields(flag, text)
    return head, _rule(model, flag, text, fields)


def _seconds(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SettingsError(f"{flag}: {text!r} is no number of seconds") from error


def _fields(flag: str, text: str) -> tuple[str, dict[str, str]]:
    head, *rest = text.split(",")
    fields = {}
    for part in rest:
        name, equals, value = part.partition("=")
        if not equals:
            raise SettingsError(f"{flag} {text!r}: {part!r} is not FIELD=VALUE")
        fields[name.strip()] = value
    return head.strip(), fields


def _rule(model: type[_Rule], flag: str, text: str, fields: dict[str, str]) -> _Rule:
    try:
        return model.model_validate_strings(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "rule"
        known = ", ".join(model.model_fields)
        raise SettingsError(f"{flag} {text!r}: {field}: {first['msg']} (fields: {known})") from error


async def _serve(provider: SimulatedProvider, parent: int | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    await provider.start()
    try:
        ready = {"event": "ready", "port": provider.port, "openai_url": provider.openai_url, "anthropic_url": provider.anthropic_url}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), _PARENT_CHECK_S if parent else None)
            except TimeoutError:
                if os.getppid() != parent:
                    return
    finally:
        await provider.stop()
