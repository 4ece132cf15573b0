"""docker-compose.yml holds what docs/how-to/deploy.md says of it. No container engine is needed: the file is read."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from workflows.contracts import policies

ROOT = Path(__file__).parents[3]
STEPS = {"temporal-schema", "holdfast-migrate", "holdfast-namespace"}
"""Services that end by themselves."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * (60 if unit == "m" else 1)


def test_the_file_fits_the_compose_specification(compose: dict[str, Any]) -> None:
    check_jsonschema = pytest.importorskip("check_jsonschema", reason="brings the schema; not in this environment")
    schema = resources.files(check_jsonschema) / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(compose)


def test_every_image_is_pinned_to_a_full_version(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.search(r":\d+\.\d+", service["image"]), name


def test_every_service_that_stays_comes_back_after_a_crash_and_has_limits_and_bounded_logs(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        if "profiles" in service:
            continue
        assert service["restart"] == ("on-failure:5" if name in STEPS else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_the_databases_and_temporal_are_watched_by_health_checks(services: dict[str, dict[str, Any]]) -> None:
    for name in ("temporal-db", "holdfast-db", "temporal"):
        assert services[name]["healthcheck"]["test"], name


def test_the_worker_starts_after_the_migration_and_the_namespace(services: dict[str, dict[str, Any]]) -> None:
    ended_well = {"condition": "service_completed_successfully"}
    assert services["worker"]["depends_on"] == {"holdfast-migrate": ended_well, "holdfast-namespace": ended_well}
    assert services["temporal"]["depends_on"] == {"temporal-schema": ended_well}


def test_a_worker_is_given_longer_to_stop_than_it_gives_its_calls(services: dict[str, dict[str, Any]]) -> None:
    assert seconds(services["worker"]["stop_grace_period"]) > policies.GRACEFUL_SHUTDOWN_S + 5


def test_no_secret_is_written_in_the_file(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PWD|KEY|SECRET|TOKEN", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
            assert not re.search(r"://[^/@\s]*:[^/@\s]+@", str(value)), f"{name}: {variable} holds a password"
    assert all(secret["file"].startswith("deploy/secrets/") for secret in compose["secrets"].values())


def test_what_asks_nobody_who_he_is_listens_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_worker_cannot_reach_temporals_database(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    on_its_network = {name for name, service in services.items() if "temporal-store" in service["networks"]}
    assert on_its_network == {"temporal-db", "temporal-schema", "temporal"}
    assert compose["networks"]["temporal-store"]["internal"] is True


def test_the_databases_keep_their_data_in_volumes(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name in ("temporal-db", "holdfast-db"):
        volume, _, place = services[name]["volumes"][0].partition(":")
        assert place == "/var/lib/postgresql/data"
        assert volume in compose["volumes"]


def test_our_containers_run_as_a_user_without_rights_on_a_file_system_they_cannot_write(services: dict[str, dict[str, Any]]) -> None:
    ours = {name: service for name, service in services.items() if service["image"].startswith("holdfast-worker")}
    assert set(ours) == {"holdfast-migrate", "holdfast-namespace", "worker", "cli"}
    for name, service in ours.items():
        assert service["user"] == "10001:10001", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name


def test_every_mounted_file_is_in_the_repository(services: dict[str, dict[str, Any]]) -> None:
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    files = [place for place in mounted if place.startswith("./")]
    assert files
    for place in files:
        assert (ROOT / place).is_file(), place


def test_both_halves_of_temporal_have_one_version(services: dict[str, dict[str, Any]]) -> None:
    versions = {services[name]["image"].partition(":")[2] for name in ("temporal", "temporal-schema")}
    assert len(versions) == 1
    go_mod = (ROOT / "devstack/server/go.mod").read_text()
    assert f"go.temporal.io/server v{versions.pop()}" in go_mod, "production and development run the same server"
    assert f"github.com/temporalio/ui-server/v2 v{services['temporal-ui']['image'].partition(':')[2]}" in go_mod
