"""Logging of a process, set up once by its entry point: one line an event, JSON or console, on standard error.

Our code logs through structlog, libraries and Temporal's SDK through `logging`; both take the same way, so that every line
has the run it belongs to, holds no content, and is free of secrets. Lines of libraries that quote requests are cut off.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, TelemetryFilter

from telemetry import log_fields, names
from workflows.contracts.errors import FailureClass, SettingsError

LogFormat = Literal["auto", "console", "json"]
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

_QUIET: Final = ("aiohttp", "anthropic", "asyncio", "httpcore", "httpx", "httpx2", "openai", "opentelemetry", "urllib3")
"""Libraries heard from warnings on: below, they quote requests and answers, or speak of every connection."""
_FAILURE_CLASSES: Final = frozenset(failure_class.value for failure_class in FailureClass)
_CORE_LOGGER: Final = "temporalio.core"
_RARELY_S: Final = 60.0

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    log_fields.add_run,
    log_fields.add_temporal,
    log_fields.describe_exception,
    log_fields.withhold_content,
    log_fields.redact_secrets,
)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the given stream, or to what `sys.stderr` is at that moment."""

    def __init__(self, stream: TextIO | None) -> None:
        self._fixed = stream
        super().__init__(stream or sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        if self._fixed is None:
            self.stream = sys.stderr
        super().emit(record)


def configure_logs(log_format: LogFormat = "auto", *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Write all logging of this process to `stream` (standard error when None), and nothing twice. A second call replaces the first.

    An exception that ends the process is logged too, instead of being printed with whatever secret its message holds.

    Args:
        log_format: `auto` is console on a terminal and JSON elsewhere.
        level: the least level of our own and of the user's code; libraries that quote requests stay at WARNING.

    Raises:
        SettingsError: the level is none of DEBUG, INFO, WARNING, ERROR.
    """
    if level not in LEVELS:
        raise SettingsError(f"The log level must be one of {', '.join(LEVELS)}; it is {level!r}.")
    console = log_format == "console" or (log_format == "auto" and (stream or sys.stderr).isatty())
    handler = _Handler(stream)
    handler.addFilter(_worth_writing)
    handler.addFilter(_Rarely())
    handler.setFormatter(_formatter(console, colours=(stream or sys.stderr).isatty()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    _tame_libraries(level)
    sys.excepthook = _log_crash
    structlog.configure(
        processors=[log_fields.drop_replayed, structlog.contextvars.merge_contextvars, *_SHARED, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def core_logging() -> LoggingConfig:
    """For Temporal's `Runtime`: send what its core has to say into `logging`, where it would else write plain lines to stdout."""
    return LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(
            logger=logging.getLogger(_CORE_LOGGER),
            append_target_to_name=False,
            prepend_target_on_message=False,
            append_log_fields_to_message=False,
        ),
    )


def _formatter(console: bool, *, colours: bool) -> logging.Formatter:
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    return ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[ProcessorFormatter.remove_processors_meta, renderer])


def _tame_libraries(level: str) -> None:
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # Their records carry the same as fields, which `add_temporal` reads.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False
    logging.captureWarnings(True)


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        structlog.get_logger("holdfast.process").critical(names.EVENT_CRASHED, exc_info=error)


def _worth_writing(record: logging.LogRecord) -> bool:
    """Not: the SDK's line on a failed attempt that our edge has classed and logged already."""
    error: Any = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ApplicationError) and error.type in _FAILURE_CLASSES)


class _Rarely(logging.Filter):
    """One line a minute from exporters: a collector that is away would else be told of with each batch."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        now = time.monotonic()
        if now < self._next.get(record.name, 0.0):
            return False
        self._next[record.name] = now + _RARELY_S
        return True
