"""Each line says what happened and for which run, in JSON or for a console, without content and without secrets."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from pydantic import BaseModel, ValidationError
from temporalio.exceptions import ApplicationError

from telemetry.context import bind_run, bound
from telemetry.log_fields import CONTENT_NAMES, TEXT_CHARS
from telemetry.logs import configure_logs, core_logging
from workflows.contracts.errors import FailureClass, SettingsError

KEY = "sk-proj-PLANTEDplanted1234567890"
log = structlog.get_logger("holdfast.tests")


class Written(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, Any]:
        [line] = self.lines()
        return line


@pytest.fixture
def written() -> Written:
    stream = Written()
    configure_logs("json", stream=stream)
    return stream


def test_a_line_carries_the_run_that_is_bound(written: Written) -> None:
    with bind_run(run_id="r1", agent="support", tenant="acme"), bind_run(step=3):
        log.info("model.called", model="gpt-5")
    line = written.only()
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo == UTC
    assert line == {
        "event": "model.called",
        "level": "info",
        "logger": "holdfast.tests",
        "model": "gpt-5",
        "run": "r1",
        "step": 3,
        "agent": "support",
        "tenant": "acme",
    }


def test_what_is_bound_ends_with_its_block(written: Written) -> None:
    with bind_run(run_id="outer", step=1):
        with bind_run(run_id="inner"):
            assert bound() == {"run": "inner", "step": 1}
        assert bound() == {"run": "outer", "step": 1}
    assert bound() == {}


def test_a_line_inside_a_span_names_its_trace(written: Written) -> None:
    span = NonRecordingSpan(SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        log.info("step.done")
    line = written.only()
    assert (line["trace_id"], line["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


@pytest.mark.parametrize("name", sorted(CONTENT_NAMES))
@pytest.mark.parametrize("prefix", ["", "tool_", "Model_"])
def test_a_field_that_holds_content_is_left_out_and_named(written: Written, name: str, prefix: str) -> None:
    log.info("step.done", **{f"{prefix}{name}": "what the customer said", "nested": {name: ["said"], "step": 1}})
    line = written.only()
    assert "said" not in written.getvalue()
    assert line["withheld"] == sorted({name, f"{prefix}{name}"})
    assert line["nested"] == {"step": 1}


def test_counts_and_flags_of_content_stay(written: Written) -> None:
    log.info("step.done", input_tokens=5, output_chars=7, result=3, answer=True, prompt_version="2")
    line = written.only()
    assert (line["input_tokens"], line["output_chars"], line["result"], line["answer"]) == (5, 7, 3, True)
    assert "withheld" not in line


def test_objects_are_named_by_their_class_and_never_shown(written: Written) -> None:
    class Request(BaseModel):
        said: str

    class Kind(StrEnum):
        ONE = "one"

    log.info(
        "step.done", request=Request(said="private"), cost_usd=Decimal("0.10"), kind=Kind.ONE, took=timedelta(seconds=2), id=UUID(int=1)
    )
    line = written.only()
    assert (line["request"], line["cost_usd"], line["kind"], line["took"]) == ("<Request>", "0.10", "one", "0:00:02")
    assert "private" not in written.getvalue()


def test_a_long_text_is_cut(written: Written) -> None:
    log.info("step.done", note="x" * (TEXT_CHARS + 1))
    assert written.only()["note"].endswith(f"… ({TEXT_CHARS + 1} characters)")


def _raise_with_key() -> None:
    local = f"a local with {KEY}"
    try:
        raise ValueError(f"inner {local}")
    except ValueError as error:
        raise RuntimeError(f"outer {KEY}") from error


def test_keys_planted_in_every_input_of_a_line_are_redacted(written: Written) -> None:
    with bind_run(run_id=f"run-{KEY}", agent=KEY, tenant=KEY):
        structlog.contextvars.bind_contextvars(more=KEY)
        try:
            _raise_with_key()
        except RuntimeError as error:
            log.error(
                f"an event with {KEY}",
                exc_info=error,
                field=KEY,
                nested={"a": [{"b": KEY}], KEY: 1},
                error=error,
                password="hunter2-planted",
                raw=KEY.encode(),
                url=f"postgres://u:hunter2-planted@db/{KEY}",
            )
            logging.getLogger("some.library").exception("a message with %s", KEY, extra={"temporal_workflow": {"workflow_id": KEY}})
        structlog.get_logger(f"logger-{KEY}").warning("named", header={"authorization": f"Bearer {KEY}"})
        warnings.filterwarnings("default")
        warnings.warn(f"careful with {KEY}", stacklevel=1)
    lines = written.lines()
    assert len(lines) == 4
    assert KEY not in written.getvalue()
    assert "hunter2-planted" not in written.getvalue()
    assert "[redacted:openai_key]" in lines[0]["exception"]
    assert lines[0]["error_type"] == "RuntimeError"


def test_a_validation_error_is_told_without_the_offending_input(written: Written) -> None:
    class Order(BaseModel):
        amount: int

    said = " ".join(("private", "words"))
    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"amount": said})
    log.error("order.invalid", exc_info=caught.value)
    line = written.only()
    assert said not in written.getvalue()
    assert "1 fields of Order do not fit (amount: int_parsing)" in line["exception"]


def test_libraries_take_the_same_way_and_those_that_quote_requests_are_cut_off(written: Written) -> None:
    logging.getLogger("a.library").info("hello %s", "there")
    for name in ("openai._base_client", "anthropic", "httpx2", "asyncio"):
        logging.getLogger(name).info("Request options: %s", {"json": "private"})
        logging.getLogger(name).debug("private")
    line = written.only()
    assert (line["event"], line["logger"], line["level"]) == ("hello there", "a.library", "info")


def test_what_temporal_attaches_to_a_record_becomes_fields(written: Written) -> None:
    told = {"workflow_id": "w1", "run_id": "x", "attempt": 2, "activity_type": "call_model", "namespace": "default"}
    logging.getLogger("temporalio.activity").warning("late", extra={"temporal_activity": told})
    with bind_run(run_id="w1"):
        logging.getLogger("temporalio.workflow").warning("odd", extra={"temporal_workflow": told})
    first, second = written.lines()
    assert (first["workflow_id"], first["attempt"], first["activity_type"]) == ("w1", 2, "call_model")
    assert "workflow_id" not in second


def test_the_sdks_line_on_a_failure_that_our_edge_has_told_is_left_out(written: Written) -> None:
    sdk = logging.getLogger("temporalio.activity")
    for error_type in (FailureClass.TRANSIENT.value, "SomethingElse"):
        error = ApplicationError("no", type=error_type)
        sdk.warning("Completing activity as failed", exc_info=error)
    assert written.only()["error_type"] == "ApplicationError"


def test_an_exporter_that_fails_with_each_batch_is_heard_once_a_minute(written: Written) -> None:
    for _ in range(3):
        logging.getLogger("opentelemetry.exporter.otlp").warning("Transient error")
    assert written.only()["event"] == "Transient error"


def test_a_console_gets_one_readable_line_and_the_traceback_below() -> None:
    stream = Written()
    configure_logs("console", stream=stream)
    with bind_run(run_id="r1"):
        try:
            _raise_with_key()
        except RuntimeError as error:
            log.error("step.failed", exc_info=error)
    first, *rest = stream.getvalue().splitlines()
    assert "step.failed" in first
    assert "run=r1" in first
    assert rest[-1] == "RuntimeError: outer [redacted:openai_key]"
    assert "\x1b[" not in stream.getvalue()


def test_auto_is_json_where_nobody_looks() -> None:
    stream = Written()
    configure_logs("auto", stream=stream)
    log.info("step.done")
    assert stream.only()["event"] == "step.done"


def test_the_level_holds_for_structlog_and_logging_alike() -> None:
    stream = Written()
    configure_logs("json", level="WARNING", stream=stream)
    log.info("step.done")
    logging.getLogger("a.library").info("hello")
    log.warning("step.slow")
    assert stream.only()["event"] == "step.slow"


def test_configuring_twice_writes_once() -> None:
    first, second = Written(), Written()
    configure_logs("json", stream=first)
    configure_logs("json", stream=second)
    log.info("step.done")
    assert first.getvalue() == ""
    assert second.only()["event"] == "step.done"


def test_without_a_stream_lines_go_to_what_standard_error_is_at_that_moment(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json")
    log.info("step.done")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "step.done"
    assert captured.out == ""


def test_an_unknown_level_is_refused_with_the_choice() -> None:
    with pytest.raises(SettingsError, match="DEBUG, INFO, WARNING, ERROR; it is 'LOUD'"):
        configure_logs(level="LOUD")


def test_the_cores_lines_are_forwarded_to_logging() -> None:
    forwarding = core_logging().forwarding
    assert forwarding is not None
    assert forwarding.logger.name == "temporalio.core"


def test_a_crash_is_a_line_like_every_other() -> None:
    code = f"from telemetry.logs import configure_logs; configure_logs('json'); raise RuntimeError('with {KEY}')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    line = json.loads(ran.stderr)
    assert ran.returncode == 1
    assert (line["event"], line["level"]) == ("process.crashed", "critical")
    assert line["exception"].endswith("RuntimeError: with [redacted:openai_key]")
