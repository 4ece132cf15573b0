"""Which worker process does something, as the books and ledgers name it for people."""

from __future__ import annotations

import os
import socket

WORKER = f"{socket.gethostname()}:{os.getpid()}"
