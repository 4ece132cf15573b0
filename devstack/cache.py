"""The cache folder: programs that took long to get. Deleting it costs time only."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from devstack.errors import FolderUnusableError

VARIABLE: Final = "HOLDFAST_CACHE"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the cache is: HOLDFAST_CACHE, else the user's cache folder, else, without a home, one below the temporary folder."""
    if chosen := environment.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    if (xdg := environment.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        return Path(xdg) / "holdfast"
    home = environment.get("HOME")
    if home and Path(home).is_dir():
        return Path(home) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "holdfast"
    return Path(tempfile.gettempdir()) / f"holdfast-cache-{os.getuid()}"


def writable_cache(environment: Mapping[str, str]) -> Path:
    """The cache folder, made and tried by writing. Raises FolderUnusableError, naming the folder and the remedy."""
    folder = cache_folder(environment)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderUnusableError(
            f"the cache folder {folder} cannot be written ({error.strerror}): set {VARIABLE} to a folder that can, or mend its permissions"
        ) from error
    if folder.parent == Path(tempfile.gettempdir()) and folder.stat().st_uid != os.getuid():
        raise FolderUnusableError(
            f"the cache folder {folder} belongs to another user, who could put programs there for us to run: "
            f"set {VARIABLE} to a folder of your own"
        )
    return folder
