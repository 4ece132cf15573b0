"""One call through an SDK's client, the same for both dialects: open the stream, read it, translate whatever goes wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, Protocol

import aiohttp
import httpx2

from activities.inference.providers import failures
from activities.inference.providers.batch_api import BatchApi
from activities.inference.providers.connection import Gathering, StreamedError, is_simulated, read_stream
from activities.inference.providers.failures import Failure
from activities.inference.providers.protocol import Progress
from activities.inference.providers.told_limits import told_limits
from workflows.contracts.errors import SettingsError, StepError
from workflows.contracts.messages import ModelRequest, ModelResponse


class SdkClient(Protocol):
    """As much of an SDK's client as is needed here; a client that retries by itself is refused."""

    max_retries: int

    async def close(self) -> None:
        """Close the connections."""
        ...


class OpenStream(Protocol):
    """What the SDKs give back for a streamed request."""

    response: httpx2.Response

    async def close(self) -> None:
        """Give the connection back, or close it when the answer was not read to its end."""
        ...


@dataclass(frozen=True, slots=True)
class SdkErrors:
    """The SDK's exceptions, by what they mean here."""

    connection: type[Exception]
    status: type[Exception]


class SdkProvider(ABC):
    """The shared half of the adapters: everything but the two dialects' words."""

    errors: SdkErrors
    request_id_header: str
    batches: BatchApi | None = None
    """Its Batch API, once it is offered."""

    def __init__(self, name: str, client: SdkClient, secrets: tuple[str, ...]) -> None:
        if client.max_retries != 0:
            raise SettingsError(
                f"The client of provider {name!r} has max_retries={client.max_retries}: build it with max_retries=0, "
                "because retries belong to Temporal."
            )
        self._name = name
        self._sdk = client
        self._secrets = secrets

    @property
    def name(self) -> str:
        """The name that model ids carry in front."""
        return self._name

    @abstractmethod
    def offer_batches(self) -> None:
        """Open the Batch API beside it, over the same connections."""

    @contextmanager
    def translating(self, request: ModelRequest | None = None) -> Iterator[None]:
        """Raise what goes wrong inside as `StepError`; what it quotes of the request is left out."""
        try:
            yield
        except (KeyError, IndexError, TypeError, AttributeError, JSONDecodeError) as error:
            raise failures.unreadable(self._name, f"an answer has another shape ({type(error).__name__})") from None
        except Exception as error:
            raise self._translated(error, request or _NOTHING_SAID, answering=False) from None

    def refused(self, failure: Failure, request: ModelRequest) -> StepError:
        """What the provider said of one request of a batch, as the error it means."""
        return failures.step_error(self._name, failure, request, self._secrets)

    @abstractmethod
    async def _open(self, request: ModelRequest) -> OpenStream:
        """Send the request and return when the answer begins."""

    @abstractmethod
    def _gathering(self, request: ModelRequest) -> Gathering:
        """An empty answer to fill."""

    async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        """Send the request and read the answer as a stream. Raises `StepError` and nothing else."""
        answering = False
        try:
            stream = await self._open(request)
            answering = True
            try:
                return await self._read(stream.response, request, on_progress)
            finally:
                await stream.close()
        except Exception as error:
            # Not `from error`: the SDK's errors carry the request, and a failure's causes are written into history.
            raise self._translated(error, request, answering) from None

    async def _read(self, response: httpx2.Response, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        gathering = self._gathering(request)
        try:
            await read_stream(self._name, response, gathering, on_progress)
        except StreamedError as streamed:
            written = gathering.output_chars > 0
            raise self._refused(response, streamed.body, request, spend_unknown=written) from None
        request_id = response.headers.get(self.request_id_header)
        answer = gathering.response(request_id=request_id, simulated=is_simulated(response))
        told = told_limits(response.headers)
        return answer.model_copy(update={"told": told}) if told else answer

    def _refused(self, response: Any, body: object, request: ModelRequest, *, spend_unknown: bool = False) -> StepError:
        failure = failures.read_failure(response.status_code, body, response.headers)
        return failures.step_error(self._name, failure, request, self._secrets, spend_unknown=spend_unknown)

    def _translated(self, error: Exception, request: ModelRequest, answering: bool) -> StepError:
        if isinstance(error, StepError):
            return error
        # The SDKs' transport lets some of aiohttp's errors through as they are.
        if isinstance(error, (self.errors.connection, httpx2.HTTPError, aiohttp.ClientError, OSError)):
            cause = _cause(error)
            if isinstance(cause, _NEVER_SENT) and not answering:
                return failures.unreachable(self._name, type(cause).__name__)
            timed_out = isinstance(cause, (TimeoutError, httpx2.TimeoutException))
            return failures.hung_up(self._name, type(cause).__name__, timed_out=timed_out)
        if isinstance(error, self.errors.status):
            return self._refused(getattr(error, "response", None), getattr(error, "body", None), request)
        if isinstance(error, UnicodeDecodeError):
            return failures.unreadable(self._name, "an event is not UTF-8")
        if isinstance(error, UnicodeEncodeError):
            return failures.unsendable(self._name)
        return failures.bug(self._name, error, spend_unknown=answering)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()


_NOTHING_SAID = ModelRequest(model="", messages=(), max_output_tokens=1, idempotency_key="")

_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
)


def _cause(error: BaseException) -> BaseException:
    """What happened below the SDK. Its transport calls every lost connection a time-out; aiohttp knows better."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for kind in (aiohttp.ClientError, httpx2.HTTPError):
        for one in chain:
            if isinstance(one, kind):
                return one
    return chain[-1]
