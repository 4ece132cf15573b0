from __future__ import annotations

from pathlib import Path

from devstack.go_build import Progress, build_environment, minutes
from devstack.server_settings import DYNAMIC_CONFIG, SEARCH_ATTRIBUTES, start_arguments


def test_progress_tells_downloads_and_then_compiled_packages(lines: list[str]) -> None:
    progress = Progress(lines.append)
    for line in ("go: downloading example.org/a v1.0.0", "go: downloading example.org/b v2.1.0"):
        progress.read(line)
    progress.tell()
    for line in ("golang.org/x/sys/unix", "example.org/a"):
        progress.read(line)
    progress.tell()
    assert lines[0].startswith("building: 2 of about 190 modules downloaded, 0 s")
    assert lines[1].startswith("building: 2 of at most 1,778 packages compiled, 0 s")


def test_what_is_neither_is_kept_for_the_error(lines: list[str]) -> None:
    progress = Progress(lines.append)
    progress.read("main.go:3:2: undefined: nothing")
    assert list(progress.last) == ["main.go:3:2: undefined: nothing"]
    assert progress.compiled == 0


def test_progress_is_not_told_for_every_line(lines: list[str]) -> None:
    progress = Progress(lines.append)
    for number in range(1000):
        progress.read(f"example.org/package{number}")
    assert lines == []


def test_a_build_takes_nothing_from_the_users_go_settings_that_would_change_it() -> None:
    environment = build_environment_of({"GOFLAGS": "-mod=mod", "GOOS": "plan9", "GOWORK": "/w", "HOME": "/"})
    assert environment["GOFLAGS"] == "-mod=readonly"
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOWORK"] == "off"
    assert "GOOS" not in environment
    assert "GOPATH" not in environment


def test_without_a_home_go_keeps_its_caches_in_ours() -> None:
    environment = build_environment_of({"HOME": "/no/such/home"})
    assert environment["GOPATH"].startswith("/cache")
    assert environment["GOCACHE"].startswith("/cache")


def build_environment_of(given: dict[str, str]) -> dict[str, str]:
    return build_environment(Path("/cache"), given)


def test_a_long_time_is_told_in_minutes() -> None:
    assert (minutes(7.4), minutes(372)) == ("7 s", "6 min 12 s")


def test_both_programs_get_the_same_arguments() -> None:
    arguments = start_arguments(port=1, ui_port=2, db_filename="/d/t.db", pragmas={"journal_mode": "wal"})
    assert arguments[:2] == ["server", "start-dev"]
    assert "--dynamic-config-value=frontend.WorkflowTimeSkippingEnabled=true" in arguments
    assert "--dynamic-config-value=history.transferProcessorMaxPollRPS=5000" in arguments
    assert "--sqlite-pragma=journal_mode=wal" in arguments
    assert sum(argument.startswith("--dynamic-config-value=") for argument in arguments) == len(DYNAMIC_CONFIG)


def test_without_a_port_for_it_the_web_ui_stays_away() -> None:
    assert "--headless" in start_arguments(port=1, ui_port=None, db_filename="x", pragmas={})


def test_the_search_attributes_fit_what_sqlite_can_hold() -> None:
    kinds = list(SEARCH_ATTRIBUTES.values())
    assert kinds.count("Keyword") <= 10
    assert kinds.count("Double") <= 3
    assert kinds.count("Datetime") <= 3
    assert set(kinds) <= {"Keyword", "Double", "Datetime"}
