"""How programs find the `holdfast dev` that runs here: a small file in its data folder, private to its user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from workflows.contracts.messages import Frozen

DATA_FOLDER: Final = ".holdfast"
DATA_VARIABLE: Final = "HOLDFAST_DATA"
FILE_NAME: Final = "endpoints.json"


class Endpoints(Frozen):
    """Where a running development stack listens."""

    pid: int
    """The process that runs the stack: when it is gone, so are the servers."""
    temporal_address: str
    namespace: str
    database_url: str = Field(repr=False)
    ui_url: str | None = None

    def running(self) -> bool:
        """Whether the process that wrote this still lives."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def data_folder(environ: Mapping[str, str], folder: Path | None = None) -> Path:
    """Where `holdfast dev` keeps its data unless told otherwise: HOLDFAST_DATA, or `.holdfast` in the working folder."""
    return Path(environ.get(DATA_VARIABLE) or (folder or Path.cwd()) / DATA_FOLDER)


def publish(data: Path, endpoints: Endpoints) -> Path:
    """Write the file, readable by its user only; returns its path."""
    data.mkdir(parents=True, exist_ok=True)
    path, draft = data / FILE_NAME, data / f"{FILE_NAME}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(endpoints.model_dump_json(indent=2) + "\n")
    draft.replace(path)
    return path


def withdraw(data: Path) -> None:
    """Remove the file if this process wrote it."""
    found = read(data / FILE_NAME)
    if found is not None and found.pid == os.getpid():
        (data / FILE_NAME).unlink(missing_ok=True)


def find(environ: Mapping[str, str], folder: Path | None = None) -> tuple[Path, Endpoints] | None:
    """The file of the stack that belongs to the working folder or one of the folders above it, running or not."""
    here = folder or Path.cwd()
    given = environ.get(DATA_VARIABLE)
    places = [Path(given)] if given else [parent / DATA_FOLDER for parent in (here, *here.parents)]
    for place in places:
        found = read(place / FILE_NAME)
        if found is not None:
            return place / FILE_NAME, found
    return None


def read(path: Path) -> Endpoints | None:
    """What the file says; None when there is none, when it is another user's, or when it is no such file."""
    try:
        if path.stat().st_uid != os.getuid():
            return None
        return Endpoints.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
