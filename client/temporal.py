"""The connection to Temporal that clients and workers share, and the one place where its failures get their names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfigProfile
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from client.settings import Settings
from workflows.contracts import policies
from workflows.contracts.errors import SettingsError, UnavailableError

DATA_CONVERTER: Final[DataConverter] = pydantic_data_converter
"""The same for everybody who reads or writes a run."""

_OUTAGES: Final = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.CANCELLED,  # what the SDK makes of its own time-out
        RPCStatusCode.ABORTED,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.UNKNOWN,
    }
)


class TemporalUnavailableError(UnavailableError):
    """Temporal cannot be reached."""


async def connect_temporal(settings: Settings, *, interceptors: Sequence[Interceptor] = (), runtime: Runtime | None = None) -> Client:
    """Connect, with TLS and key as the TEMPORAL_* variables say.

    Raises:
        TemporalUnavailableError: no server answers; the message names the remedy.
        SettingsError: a TEMPORAL_* variable cannot be used.
    """
    try:
        profile = ClientConfigProfile.load(disable_file=True, override_env_vars=settings.temporal_variables)
        given = profile.to_client_connect_config()
    except (RuntimeError, ValueError, OSError) as error:
        raise SettingsError(f"The TEMPORAL_* variables cannot be used: {error}.") from error
    try:
        return await Client.connect(
            settings.temporal_address,
            namespace=settings.namespace,
            api_key=given.get("api_key"),
            tls=given.get("tls", False),
            rpc_metadata=given.get("rpc_metadata", {}),
            data_converter=DATA_CONVERTER,
            interceptors=interceptors,
            connect_timeout=timedelta(seconds=policies.TEMPORAL_CONNECT_S),
            runtime=runtime,
        )
    except (RuntimeError, OSError, TimeoutError) as error:
        raise TemporalUnavailableError(_unreachable(settings, str(error))) from error


def is_outage(error: RPCError) -> bool:
    """Whether the server could not be asked; asking again may help."""
    return error.status in _OUTAGES


@contextlib.contextmanager
def calls_named(settings: Settings) -> Iterator[None]:
    """Turn what a failing call to Temporal raises into our errors; NOT_FOUND of a run is the caller's to read."""
    try:
        yield
    except RPCError as error:
        if is_outage(error):
            raise TemporalUnavailableError(_unreachable(settings, error.message)) from error
        if error.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
            raise SettingsError(f"Temporal refused our credentials ({error.message}): check TEMPORAL_API_KEY.") from error
        if "namespace" in error.message.lower() and error.status == RPCStatusCode.NOT_FOUND:
            raise SettingsError(
                f"Temporal at {settings.temporal_address} has no namespace {settings.namespace!r}: check TEMPORAL_NAMESPACE."
            ) from error
        if error.status == RPCStatusCode.INVALID_ARGUMENT and "search attribute" in error.message.lower():
            raise SettingsError(
                f"The namespace {settings.namespace!r} lacks a search attribute ({error.message}): `holdfast doctor` names them all."
            ) from error
        raise


def _unreachable(settings: Settings, reason: str) -> str:
    return (
        f"Temporal cannot be reached at {settings.temporal_address}, an address from {settings.origin} ({reason.strip()[:200]}): "
        "start `holdfast dev`, or set TEMPORAL_ADDRESS to a server that runs."
    )
