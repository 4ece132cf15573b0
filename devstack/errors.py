"""What can go wrong with the development stack.

HoldfastError
└── DevStackError
    ├── PortInUseError          another program listens on a port we were told to use
    ├── FolderInUseError        another process runs a stack on this data folder
    ├── FolderUnusableError     a cache or data folder cannot be written or entered
    ├── BinaryMissingError      no way was found to get a server's program
    └── ServerStartError        a server ended, or did not answer, while it was starting
"""

from __future__ import annotations

from workflows.contracts.errors import HoldfastError


class DevStackError(HoldfastError):
    """The development stack cannot do what it was asked to."""


class PortInUseError(DevStackError):
    """Another program listens on this port."""


class FolderInUseError(DevStackError):
    """Another process uses this data folder."""


class FolderUnusableError(DevStackError):
    """A folder cannot be written or entered."""


class BinaryMissingError(DevStackError):
    """No way was found to get a server's program."""


class ServerStartError(DevStackError):
    """A server did not start."""
