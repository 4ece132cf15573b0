from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack import doctor, postgres_binaries, prepare
from devstack.doctor import DoctorSettings, Finding, examine
from devstack.errors import BinaryMissingError
from devstack.temporal_program import built_path

MakeProgram = Callable[[Path, str], Path]


async def findings(environment: dict[str, str], **more: object) -> dict[str, Finding]:
    found = await examine(DoctorSettings(environment=environment, **more))  # type: ignore[arg-type]
    return {finding.name: finding for finding in found}


async def test_on_a_machine_with_a_server_in_the_cache_all_is_well(tmp_path: Path, program: MakeProgram) -> None:
    program(built_path(tmp_path / "temporal"), "echo holdfast devserver v1.32.1")
    found = await findings({"HOLDFAST_CACHE": str(tmp_path), "OPENAI_API_KEY": "sk-secret", "PATH": "/nowhere"})
    assert {name: finding.level for name, finding in found.items()} == dict.fromkeys(doctor.CHECKS, "ok")
    assert "cached, built earlier" in found["Temporal"].detail
    assert "PostgreSQL) 16" in found["PostgreSQL programs"].detail


async def test_keys_are_named_and_never_shown(tmp_path: Path) -> None:
    found = await findings({"HOLDFAST_CACHE": str(tmp_path), "ANTHROPIC_API_KEY": "sk-secret"})
    assert found["provider keys"].detail == "set: ANTHROPIC_API_KEY"
    assert "sk-secret" not in repr(found)


async def test_what_is_missing_is_told_with_what_to_do(tmp_path: Path) -> None:
    found = await findings({"HOLDFAST_CACHE": str(tmp_path), "PATH": "/nowhere"})
    assert found["Temporal"].level == "warn"
    assert "python -m devstack.prepare" in found["Temporal"].remedy
    assert found["provider keys"].level == "warn"
    assert "OPENAI_API_KEY" in found["provider keys"].remedy


async def test_a_cache_that_cannot_be_written_is_a_failure_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = await findings({"HOLDFAST_CACHE": str(tmp_path / "file" / "cache")})
    assert found["cache folder"].level == "fail"
    assert str(tmp_path / "file" / "cache") in found["cache folder"].detail
    assert found["cache folder"].remedy.startswith("set HOLDFAST_CACHE")


async def test_servers_that_do_not_answer_are_failures_without_secrets(tmp_path: Path) -> None:
    outside = {"DATABASE_URL": "postgresql://me:hush@127.0.0.1:9/shop", "TEMPORAL_ADDRESS": "127.0.0.1:9"}
    found = await findings({"HOLDFAST_CACHE": str(tmp_path)} | outside)
    assert (found["database"].level, found["Temporal"].level) == ("fail", "fail")
    assert "127.0.0.1:9/shop" in found["database"].detail
    assert "Connection refused" in found["Temporal"].detail
    assert "hush" not in repr(found)


async def test_a_port_in_use_is_a_warning(tmp_path: Path) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        found = await findings({"HOLDFAST_CACHE": str(tmp_path)}, ports={"the Web UI": port})
    assert found[f"port {port}"].level == "warn"
    assert "wanted for the Web UI" in found[f"port {port}"].detail


async def test_little_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 10**18)
    assert (await findings({"HOLDFAST_CACHE": str(tmp_path)}))["disk"].level == "fail"


async def test_missing_postgres_programs_matter_only_without_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "PACKAGE", "no_such_package")
    found = await findings({"HOLDFAST_CACHE": str(tmp_path)})
    assert found["PostgreSQL programs"].level == "fail"
    assert "DATABASE_URL" in found["PostgreSQL programs"].remedy
    found = await findings({"HOLDFAST_CACHE": str(tmp_path), "DATABASE_URL": "postgresql://127.0.0.1:9/x"})
    assert found["PostgreSQL programs"].level == "warn"


async def test_a_check_that_hangs_or_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: DoctorSettings) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    async def breaks(_: DoctorSettings) -> Finding:
        raise KeyError("odd")

    monkeypatch.setattr(doctor, "CHECK_WAIT_S", 0.05)
    monkeypatch.setattr(doctor, "CHECKS", {"hangs": hangs, "breaks": breaks})
    found = await findings({})
    assert (found["hangs"].level, found["breaks"].level) == ("fail", "fail")
    assert "no answer within 0.05 s" in found["hangs"].detail
    assert "KeyError" in found["breaks"].detail


async def test_prepare_tells_what_will_be_used(tmp_path: Path, program: MakeProgram, lines: list[str]) -> None:
    kept = program(built_path(tmp_path / "temporal"), "echo holdfast devserver v1.32.1")
    await prepare.prepare({"HOLDFAST_CACHE": str(tmp_path), "PATH": "/nowhere"}, lines.append)
    assert lines[0].startswith("PostgreSQL: packaged programs in ")
    assert lines[1] == f"Temporal: holdfast devserver v1.32.1, cached, built earlier ({kept})"
    assert lines[2].startswith("ready after ")


async def test_prepare_starts_nothing_where_servers_are_given(lines: list[str]) -> None:
    outside = {"DATABASE_URL": "postgresql://me:hush@db.example:5433/shop", "TEMPORAL_ADDRESS": "temporal.example:7233"}
    await prepare.prepare(outside, lines.append)
    assert lines[:2] == [
        "PostgreSQL: db.example:5433/shop, from DATABASE_URL",
        "Temporal: temporal.example:7233, from TEMPORAL_ADDRESS",
    ]


async def test_root_without_an_account_to_give_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.postgres_binaries.os.geteuid", lambda: 0)
    monkeypatch.setattr(postgres_binaries, "ACCOUNTS", ("no-such-account",))
    with pytest.raises(BinaryMissingError, match="has no account named no-such-account: add one"):
        postgres_binaries.account(tmp_path / "no data yet")
