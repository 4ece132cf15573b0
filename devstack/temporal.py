"""A Temporal development server of ours, on a SQLite file, with the Web UI."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from devstack.own_server import OwnServer
from devstack.ports import LOOPBACK, claim_port
from devstack.process import ServerPlan
from devstack.server_settings import NAMESPACE, SQLITE_EPHEMERAL, SQLITE_KEPT, start_arguments

STOP_GRACE_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class TemporalSettings:
    """Which program runs the dev server, where it keeps its state and where it listens."""

    program: Path
    folder: Path | None = None
    """Kept between starts; None for a folder that goes with the server."""
    port: int = 0
    """0 takes a free port, kept until `running` ends."""
    ui_port: int | None = 0
    """As `port`; None leaves the Web UI away."""
    namespace: str = NAMESPACE
    lock_wait_s: float = 10.0
    on_line: Callable[[str], None] | None = None


class TemporalServer(OwnServer):
    """One dev server of ours."""

    name = "the Temporal server"

    def __init__(self, settings: TemporalSettings) -> None:
        super().__init__(settings.folder, lock_wait_s=settings.lock_wait_s, on_line=settings.on_line)
        self._settings = settings
        self.port = 0
        self.ui_port: int | None = None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Where the Web UI is."""
        return None if self.ui_port is None else f"http://{LOOPBACK}:{self.ui_port}"

    def _claim_ports(self, *, first: bool) -> None:
        settings = self._settings
        self.port = claim_port(settings.port if first else self.port, self.name)
        if settings.ui_port is not None:
            self.ui_port = claim_port(settings.ui_port if first else self.ui_port or 0, "the Temporal Web UI")

    async def _prepare(self) -> None:
        """Nothing: the server makes its database itself."""

    def _plan(self) -> ServerPlan:
        arguments = start_arguments(
            port=self.port,
            ui_port=self.ui_port,
            db_filename=str(self.folder / "temporal.db"),
            pragmas=SQLITE_KEPT if self.kept else SQLITE_EPHEMERAL,
            namespace=self._settings.namespace,
        )
        return ServerPlan(
            name=self.name,
            command=[str(self._settings.program), *arguments],
            log=self.folder / "temporal.log",
            cwd=self.folder,
            stop_signals=(signal.SIGTERM,) if self.kept else (signal.SIGKILL,),  # an orderly end takes a second
            stop_grace_s=STOP_GRACE_S,
            pass_fds=(self._lock,),
            remove=() if self.kept else (self.folder,),
        )

    async def _answers(self) -> bool:
        try:
            client = await Client.connect(self.address, namespace=self._settings.namespace)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        except (RPCError, RuntimeError):
            return False
        return True
