from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from devstack.cache import cache_folder, writable_cache
from devstack.errors import FolderInUseError, FolderUnusableError, PortInUseError
from devstack.folder_lock import locked
from devstack.ports import claim_port, free_port, is_free


def test_the_cache_is_where_the_variable_says(tmp_path: Path) -> None:
    assert cache_folder({"HOLDFAST_CACHE": str(tmp_path / "c"), "HOME": "/nowhere"}) == tmp_path / "c"


def test_the_cache_follows_xdg_and_then_the_home(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path), "HOME": "/nowhere"}) == tmp_path / "holdfast"
    assert tmp_path in cache_folder({"HOME": str(tmp_path)}).parents


def test_a_relative_xdg_folder_is_ignored_as_its_specification_says(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": "cache", "HOME": str(tmp_path)}).is_relative_to(tmp_path)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "/no/such/home"}])
def test_without_a_home_the_cache_is_below_the_temporary_folder(environment: dict[str, str]) -> None:
    assert cache_folder(environment).is_relative_to(tempfile.gettempdir())


def test_a_cache_folder_is_made(tmp_path: Path) -> None:
    assert writable_cache({"HOLDFAST_CACHE": str(tmp_path / "deep" / "er")}).is_dir()


def test_a_cache_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusableError) as raised:
        writable_cache({"HOLDFAST_CACHE": str(tmp_path / "file" / "cache")})
    assert str(tmp_path / "file" / "cache") in str(raised.value)
    assert "set HOLDFAST_CACHE" in str(raised.value)


async def test_a_second_holder_gets_the_lock_when_the_first_lets_go(tmp_path: Path, lines: list[str]) -> None:
    order: list[str] = []
    held, waited_for = asyncio.Event(), asyncio.Event()

    def on_wait(line: str) -> None:
        lines.append(line)
        waited_for.set()

    async def first() -> None:
        async with locked(tmp_path / "lock", wait_s=0, purpose="first"):
            held.set()
            await waited_for.wait()
            order.append("first")

    async def second() -> None:
        await held.wait()
        async with locked(tmp_path / "lock", wait_s=10, purpose="which works", on_wait=on_wait):
            order.append("second")

    await asyncio.gather(first(), second())
    assert order == ["first", "second"]
    assert len(lines) == 1


async def test_a_lock_that_stays_held_is_told_with_its_holder_and_folder(tmp_path: Path) -> None:
    async with locked(tmp_path / "lock", wait_s=0, purpose="first"):
        with pytest.raises(FolderInUseError, match=r"in use by process \d+, which waits: stop that process"):
            async with locked(tmp_path / "lock", wait_s=0.1, purpose="which waits"):
                pytest.fail("two held the lock")


def test_a_free_port_is_free() -> None:
    assert is_free(free_port())
    assert claim_port(0, "a test") > 0


async def test_a_taken_port_is_named_with_its_purpose_and_the_remedy() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortInUseError, match=f"port {port}, wanted for a test, is in use.*choose another port"):
            claim_port(port, "a test")
