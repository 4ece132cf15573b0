"""Imports the Python modules of an agents folder, each folder as a package of its own, so that two may both have a tools.py."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import sys
import threading
import traceback
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.contracts.errors import DefinitionError
from workflows.contracts.hooks import Hook, hooks_of
from workflows.contracts.tools import Provider, Tool

_generation = itertools.count(1)
_importing = threading.Lock()


@dataclass(frozen=True)
class Found:
    """What the modules of one folder define."""

    tools: tuple[Tool[..., Any], ...]
    providers: tuple[Provider, ...]
    hooks: tuple[Hook, ...] = ()


def source_files(folder: Path) -> list[Path]:
    """The modules that are imported: not tests, not conftest, not names with an underscore in front."""
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith(("test_", "_")) and path.name != "conftest.py"]


def watched_files(folder: Path) -> list[Path]:
    """Every module whose change may change what the folder defines: those that are imported, and those they may import."""
    return sorted({*folder.glob("*.py"), *(path for init in folder.glob("*/__init__.py") for path in init.parent.rglob("*.py"))})


def load(folder: Path) -> Found:
    """Import the folder's modules anew and collect what they define. Modules reach each other by relative imports.

    Raises:
        DefinitionError: a module cannot be imported; names file, line and cause.
    """
    files = source_files(folder)
    if not files:
        return Found((), ())
    package = f"holdfast_agents_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}_{next(_generation)}"
    with _importing, _without_bytecode(), _forgotten_if_it_fails(package):
        parent = types.ModuleType(package)
        parent.__path__ = [str(folder)]
        sys.modules[package] = parent
        return _collect([_import(f"{package}.{path.stem}", path) for path in files])


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    """Bytecode is matched by size and whole seconds: after a quick edit Python would take the old one. And the folder is the user's."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextlib.contextmanager
def _forgotten_if_it_fails(package: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
        raise


def _import(name: str, path: Path) -> types.ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"{path}: cannot be imported as a Python module. Rename it, or take it out of the folder.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except DefinitionError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends by sys.exit() must not end the worker
        problem = f"{type(error).__name__}: {error}".rstrip(": .")
        raise DefinitionError(f"{_place(path, error)}: cannot be imported: {problem}. {_remedy(path, error)}") from error
    return module


def _place(path: Path, error: BaseException) -> str:
    """The deepest line within the folder that led to the failure."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(path.parent)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)


def _remedy(path: Path, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if (path.parent / f"{error.name}.py").exists() or (path.parent / error.name).is_dir():
            return f"It is in the same folder: write `from .{error.name} import …`."
        return "Install it where the worker runs."
    if isinstance(error, SystemExit):
        return 'Put what a script does under `if __name__ == "__main__":`, or take the file out of the folder.'
    return "Correct it, or take the file out of the folder."


def _collect(modules: Iterable[types.ModuleType]) -> Found:
    tools: dict[int, Tool[..., Any]] = {}
    providers: dict[int, Provider] = {}
    hooks: dict[int, Hook] = {}
    for value in itertools.chain.from_iterable(vars(module).values() for module in modules):
        if isinstance(value, Tool):
            tools[id(value)] = value
        elif isinstance(value, Provider):
            providers[id(value)] = value
        else:
            hooks |= {id(hook): hook for hook in hooks_of(value)}
    return Found(tuple(tools.values()), tuple(providers.values()), tuple(hooks.values()))
