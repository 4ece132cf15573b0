"""Finds a policy by its name on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from devstack.simulated_provider.policy import Policy
from workflows.contracts.errors import SettingsError


def load_policy(name: str) -> Policy:
    """The function that `package.module:function` or `path/to/file.py:function` names. Raises `SettingsError`."""
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise SettingsError(f"{name!r} names no policy: write package.module:function or path/to/file.py:function")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    policy = getattr(module, function, None)
    if not callable(policy):
        raise SettingsError(f"{place} has no function {function!r} to use as a policy")
    return policy  # type: ignore[no-any-return]  # what it returns is checked when it is called


def _load_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise SettingsError(f"The policy's module {place!r} cannot be imported: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SettingsError(f"The policy's file {str(path)!r} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"The policy's file {str(path)!r} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"The policy's file {str(path)!r} cannot be run: {type(error).__name__}: {error}") from error
    return module
