"""Imports the Python modules of an agents folder, each folder as a package of its own, so that two may both have a tools.py."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
import traceback
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.contracts.errors import DefinitionError
from workflows.contracts.tools import Provider, Tool

_generation = itertools.count(1)


@dataclass(frozen=True)
class Found:
    """What the modules of one folder define."""

    tools: tuple[Tool[..., Any], ...]
    providers: tuple[Provider, ...]


def source_files(folder: Path) -> list[Path]:
    """The modules that are imported: not tests, not conftest, not names with an underscore in front."""
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith(("test_", "_")) and path.name != "conftest.py"]


def load(folder: Path) -> Found:
    """Import the folder's modules anew and collect what they define. Modules reach each other by relative imports.

    Raises:
        DefinitionError: a module cannot be imported; names file, line and cause.
    """
    files = source_files(folder)
    if not files:
        return Found((), ())
    package = f"holdfast_agents_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}_{next(_generation)}"
    parent = types.ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    modules = [_import(f"{package}.{path.stem}", path) for path in files]
    return _collect(modules)


def _import(name: str, path: Path) -> types.ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"{path}: cannot be imported as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except DefinitionError:
        raise
    except Exception as error:
        raise DefinitionError(f"{_place(path, error)}: cannot be imported: {type(error).__name__}: {error}.") from error
    return module


def _place(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)


def _collect(modules: Iterable[types.ModuleType]) -> Found:
    tools: dict[int, Tool[..., Any]] = {}
    providers: dict[int, Provider] = {}
    for value in itertools.chain.from_iterable(vars(module).values() for module in modules):
        if isinstance(value, Tool):
            tools[id(value)] = value
        elif isinstance(value, Provider):
            providers[id(value)] = value
    return Found(tuple(tools.values()), tuple(providers.values()))
