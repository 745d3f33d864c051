"""Backup and restore with the commands of docs/how-to/back-up-and-restore.md."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url

from service.app import create_app
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db import migrate
from service.db.session import Database
from service.local import postgres

WEIGHTS = "pytorch_lora_weights.safetensors"


def run(program: str, *arguments: str) -> None:
    directory = None if "G2RPO_DATABASE_URL" in os.environ else postgres.installed()
    subprocess.run([directory / program if directory else program, *arguments], check=True, timeout=60)


def libpq(url: str, **parts: str) -> str:
    return make_url(url).set(drivername="postgresql", **parts).render_as_string(hide_password=False)


def test_a_dump_and_a_later_copy_of_the_store_restore_the_service(
    database: Database, records: Any, settings: Settings, new_database_url: str, tmp_path: Path
) -> None:
    checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {WEIGHTS: b"weights"})
    dump = tmp_path / "g2rpo.dump"
    run("pg_dump", "--dbname", libpq(settings.database_url), "--format", "custom", "--file", str(dump))
    later = records.checkpoint(records.run(JobStatus.SUCCEEDED), {WEIGHTS: b"later"})
    shutil.copytree(settings.data_dir / "artifacts", tmp_path / "restored/artifacts")

    url = libpq(new_database_url)
    name, server = make_url(url).database, libpq(url, database="postgres")
    assert name is not None
    run("dropdb", "--maintenance-db", server, "--force", "--if-exists", name)
    run("createdb", "--maintenance-db", server, name)
    run("pg_restore", "--exit-on-error", "--no-owner", "--dbname", url, str(dump))
    migrate.upgrade(new_database_url)
    app = create_app(settings.model_copy(update={"database_url": new_database_url, "data_dir": tmp_path / "restored"}))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}").content == b"weights"
        assert client.get(f"/checkpoints/{later.id}").status_code == 404
        assert client.get(f"/runs/{checkpoint.run_id}").json()["status"] == "succeeded"
