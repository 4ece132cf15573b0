"""Servers that are not ours: reached as the environment says, and what is told when they cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile

from workflows.contracts.errors import UnavailableError

CONNECT_WAIT_S: Final = 10.0


async def connect_temporal(address: str, namespace: str, environment: Mapping[str, str]) -> Client:
    """Connect, with key and TLS as Temporal's own variables say. Raises UnavailableError."""
    variables = {name: value for name, value in environment.items() if name.startswith("TEMPORAL_")}
    try:
        given = ClientConfigProfile.load(disable_file=True, override_env_vars=variables).to_client_connect_config()
        return await asyncio.wait_for(
            Client.connect(
                address,
                namespace=namespace,
                api_key=given.get("api_key"),
                tls=given.get("tls", False),
                rpc_metadata=given.get("rpc_metadata", {}),
            ),
            CONNECT_WAIT_S,
        )
    except (RuntimeError, ValueError, OSError) as error:  # TimeoutError is an OSError
        told = str(error) or f"no answer within {CONNECT_WAIT_S:g} s"
        inner = re.search(r'message: "([^"]+)"', told)  # the SDK's own text nests four errors
        reason = inner[1] if inner else told.splitlines()[0]
        raise UnavailableError(f"no Temporal server answers at {address} ({reason}): check TEMPORAL_ADDRESS, or unset it") from error


def database_place(database_url: str) -> str:
    """Host, port and database of an address, without user and password."""
    try:
        parts = urlsplit(database_url)
        return f"{parts.hostname or 'the default host'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "an address that is not valid"


def named_database_failure(database_url: str, error: BaseException) -> UnavailableError:
    """What to tell when a database cannot be used; never the password."""
    reason = str(error) or type(error).__name__
    with contextlib.suppress(ValueError):
        if password := urlsplit(database_url).password:
            reason = reason.replace(password, "***")
    return UnavailableError(f"the database at {database_place(database_url)} cannot be used ({reason}): check DATABASE_URL")
