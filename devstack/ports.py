"""Ports on the loopback interface."""

from __future__ import annotations

import errno
import socket
from typing import Final

from devstack.errors import PortInUseError

LOOPBACK: Final = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server of ours could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closing connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def claim_port(port: int, purpose: str) -> int:
    """The port itself, or a free one for 0. Raises PortInUseError, naming the port and the remedy."""
    if port == 0:
        return free_port()
    if not is_free(port):
        raise PortInUseError(
            f"port {port}, wanted for {purpose}, is in use by another program: stop that program, "
            "or choose another port (0 takes any free one)"
        )
    return port
