"""Run one server and see that it ends when the process that wanted it ends, however that happens.

Started as a script of its own (`python -I -S supervisor.py PLAN`), with the standard library only: it must start within
milliseconds and live longer than its parent. Standard input is the lifeline: a byte on it means "stop", its end means that
the parent is gone, and then folders that nobody else would remove go too.
Each line on standard output is a JSON report: {"pid": …}, then {"exit": …}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_KEEPCAPS: Final = 8
PR_SET_SECUREBITS: Final = 28
SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
PR_SET_CHILD_SUBREAPER: Final = 36
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
CAP_DAC_OVERRIDE: Final = 1
CAPABILITY_VERSION_3: Final = 0x20080522
PARENT_CHECK_S: Final = 1.0


def main() -> int:
    """Run the server of the plan until it ends or the lifeline does; the exit status is the server's."""
    plan: dict[str, Any] = json.loads(sys.argv[1])
    parent = plan["parent_pid"]
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopping.append(received))
    if sys.platform == "linux":  # what the server leaves behind becomes ours to end
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        server = start(plan)
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    report({"pid": server.pid})
    abandoned = watch(server, parent, wakeup_read, stopping)
    status = stop(server, plan["stop_signals"], plan["stop_grace_s"])
    end_orphans(plan["stop_grace_s"])
    if abandoned:
        for folder in plan["remove"]:
            shutil.rmtree(folder, ignore_errors=True)
    report({"exit": status})
    return 0


def watch(server: subprocess.Popen[bytes], parent: int, wakeup: int, stopping: list[int]) -> bool:
    """Wait until the server ends, or a reason to end it comes; whether the parent is gone."""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        while server.poll() is None and not stopping:
            if os.getppid() != parent:
                return True
            ready = {key.fd for key, _ in selector.select(PARENT_CHECK_S)}
            if wakeup in ready:
                os.read(wakeup, 512)
            if 0 in ready:
                return not os.read(0, 512)
    return False


def start(plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the server: its output goes where our standard error goes, its own children inherit the folder lock."""
    return subprocess.Popen(  # noqa: S603 - the plan is our parent's
        plan["command"],
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=2,
        pass_fds=plan["pass_fds"],
        cwd=plan["cwd"],
        preexec_fn=lambda: become(plan["uid"], plan["gid"], plan["enter_any_folder"], plan["stop_signals"][0]),
    )


def become(uid: int | None, gid: int | None, enter_any_folder: bool, death_signal: int) -> None:
    """In the server's process, before its program runs: take its user, and ask the kernel for a signal at our death."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if uid is not None:
        try:
            change_user(libc if enter_any_folder else None, uid, uid if gid is None else gid)
        except OSError as error:  # what is raised here reaches the parent without its message
            os.write(2, f"the user cannot be changed to number {uid}: {error.strerror}\n".encode())
            raise
    if libc:
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def change_user(libc: ctypes.CDLL | None, uid: int, gid: int) -> None:
    """Become another user for good; with `libc`, keep the one right that lets it enter folders closed to it."""
    if libc:
        # access(2), by which initdb looks for its programs, heeds the kept right only with this bit set.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc:
        keep_one_capability(libc)


def keep_one_capability(libc: ctypes.CDLL) -> None:
    """Keep only CAP_DAC_OVERRIDE over the change of user, so that a folder below a closed home can be reached."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    mask = 1 << CAP_DAC_OVERRIDE
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, data) or libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel does not let a server keep the right to enter any folder")


def stop(server: subprocess.Popen[bytes], signals: list[int], grace_s: float) -> int:
    """Send each signal in turn, with a grace period after each; the last resort is SIGKILL."""
    for number in [*signals, signal.SIGKILL]:
        if server.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(number)
        give_up = time.monotonic() + grace_s
        while server.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
    return server.wait()


def end_orphans(grace_s: float) -> None:
    """Wait for processes that the server left behind (a killed PostgreSQL leaves its backends), then kill the rest."""
    give_up = time.monotonic() + grace_s
    while (left := own_children()) and time.monotonic() < give_up:
        time.sleep(0.01)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    own_children()


def own_children() -> list[int]:
    """Collect our ended children; the ids of those that still run, where the system tells them."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if pid == 0:
            break
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


def report(fields: dict[str, int]) -> None:
    """Tell the parent, if there still is one."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main())
