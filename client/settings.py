"""Where Temporal and the database are, read once from the environment by whoever starts a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from client import endpoints
from workflows.contracts.errors import SettingsError
from workflows.contracts.names import TASK_QUEUE

LogFormat = Literal["auto", "console", "json"]
LOG_FORMATS: Final = ("auto", "console", "json")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a client or worker must know of its surroundings."""

    temporal_address: str
    namespace: str = "default"
    database_url: str = field(repr=False)
    """With the password: not for logs."""
    task_queue: str = TASK_QUEUE
    ui_url: str | None = None
    """The Temporal Web UI, for links."""
    log_format: LogFormat = "auto"
    """`auto`: coloured lines on a terminal, JSON elsewhere."""
    temporal_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """TEMPORAL_API_KEY, TEMPORAL_TLS… as given: Temporal's own reader interprets them when the connection is made."""
    origin: str = "the environment"
    """Where the addresses were found, for messages."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Settings:
        """TEMPORAL_ADDRESS and DATABASE_URL, or the `holdfast dev` that runs in the working folder (or one above it).

        Raises:
            SettingsError: nothing says where the servers are, or a variable cannot be used; the message names the remedy.
        """
        address, database = environ.get("TEMPORAL_ADDRESS"), environ.get("DATABASE_URL")
        found = endpoints.find(environ, folder)
        ours = found[1] if found and found[1].running() and _fits(found[1], address, database) else None
        if ours is None and not (address and database):
            raise SettingsError(_nothing_found(address, database, found))
        ui_url = environ.get("HOLDFAST_UI_URL") or (ours.ui_url if ours else None)
        return cls(
            temporal_address=_address(address or (ours.temporal_address if ours else "")),
            namespace=environ.get("TEMPORAL_NAMESPACE") or (ours.namespace if ours else "default"),
            database_url=_database_url(database or (ours.database_url if ours else "")),
            task_queue=environ.get("HOLDFAST_TASK_QUEUE") or TASK_QUEUE,
            ui_url=ui_url.rstrip("/") if ui_url else None,
            log_format=_log_format(environ.get("HOLDFAST_LOG_FORMAT") or "auto"),
            temporal_variables={name: value for name, value in environ.items() if name.startswith("TEMPORAL_")},
            origin="the environment" if address and database else f"the `holdfast dev` of {found[0].parent}" if found else "",
        )

    def run_url(self, run_id: str) -> str | None:
        """The page of a run in the Temporal Web UI."""
        return f"{self.ui_url}/namespaces/{self.namespace}/workflows/{run_id}" if self.ui_url else None


def _fits(found: endpoints.Endpoints, address: str | None, database: str | None) -> bool:
    """A half that is set must be the stack's own: runs in one place and their content in another would be lost to each other."""
    return address in (None, "", found.temporal_address) and database in (None, "", found.database_url)


def _nothing_found(address: str | None, database: str | None, found: tuple[Path, endpoints.Endpoints] | None) -> str:
    if address or database:
        given, missing = ("TEMPORAL_ADDRESS", "DATABASE_URL") if address else ("DATABASE_URL", "TEMPORAL_ADDRESS")
        return f"{given} is set and {missing} is not: set both, or neither and start `holdfast dev`."
    if found:
        return f"The `holdfast dev` of {found[0].parent} no longer runs: start it again, or set TEMPORAL_ADDRESS and DATABASE_URL."
    return "Nothing says where Temporal and the database are: start `holdfast dev`, or set TEMPORAL_ADDRESS and DATABASE_URL."


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or "/" in value:
        raise SettingsError(f"TEMPORAL_ADDRESS must be HOST:PORT, as in localhost:7233; it is {value!r}.")
    return value


def _database_url(value: str) -> str:
    scheme = urlsplit(value).scheme
    if scheme not in ("postgres", "postgresql"):
        raise SettingsError(f"DATABASE_URL must start with postgresql://; it starts with {scheme or 'no scheme'!r}.")
    return value


def _log_format(value: str) -> LogFormat:
    if value not in LOG_FORMATS:
        raise SettingsError(f"HOLDFAST_LOG_FORMAT must be one of {', '.join(LOG_FORMATS)}; it is {value!r}.")
    return cast("LogFormat", value)
