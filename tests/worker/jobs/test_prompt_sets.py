"""Uploaded prompt sets: the process reads the accepted file, or the run fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.contracts.catalog import load_catalog
from service.contracts.prompts import PromptLine
from service.contracts.runs import PromptSource
from service.db.base import new_id
from service.db.models import Garbage, PromptSet
from service.db.session import Database
from worker.engine.training.prompt_sampler import load_named, load_prompts
from worker.jobs.artifact_transfer import PromptSetDamaged, fetch_prompt_set
from worker.maintenance.garbage_collection import find_orphans

PROMPTS = ("a red circle", "ein Kreis, \u2028 grün")


@pytest.fixture
def uploaded(database: Database, tmp_path: Path) -> PromptSet:
    """A set of PROMPTS in the store, with its row."""
    id, file = new_id(), tmp_path / "sent.jsonl"
    file.write_bytes(b"".join(PromptLine(prompt=prompt).written() for prompt in PROMPTS))
    stored = database.artifacts.put_file(file, f"prompt-sets/{id}/prompts.jsonl")
    kept = {"key": stored.key, "sha256": stored.sha256, "size": stored.size, "prompts": len(PROMPTS)}
    row = PromptSet(id=id, upload_id=id, name="mine", description="", format="text", counts={}, **kept)
    with database.transaction() as session:
        session.add(row)
    return row


def test_process_reads_the_uploaded_prompts(database: Database, uploaded: PromptSet, tmp_path: Path) -> None:
    file = fetch_prompt_set(database, uploaded.id, tmp_path / "prompt-sets")
    files = {"mine": file, "shapes-train": file}
    for name in files:  # a file takes precedence over a catalog entry that was added later
        assert load_prompts(PromptSource(set=name), load_catalog(), files) == PROMPTS
    with pytest.raises(KeyError, match="Unknown prompt set 'yours'"):
        load_named("yours", load_catalog(), files)


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_damaged_prompt_set_is_not_used(database: Database, uploaded: PromptSet, tmp_path: Path, damage: str) -> None:
    database.artifacts.delete(uploaded.key)
    if damage == "altered":
        (tmp_path / "other").write_bytes(b"x" * uploaded.size)
        database.artifacts.put_file(tmp_path / "other", uploaded.key)
    with pytest.raises(PromptSetDamaged, match="prompt set 'mine'"):
        fetch_prompt_set(database, uploaded.id, tmp_path / "prompt-sets")


def test_only_files_without_a_row_are_collected(database: Database, uploaded: PromptSet, tmp_path: Path) -> None:
    lost = "01890a5d-ac96-774b-bcce-b302099a8057"
    (tmp_path / "file").write_bytes(b"{}")
    database.artifacts.put_file(tmp_path / "file", f"prompt-sets/{lost}/prompts.jsonl")
    soon = replace(database, settings=database.settings.model_copy(update={"orphan_seconds": 0.001}))
    assert find_orphans(soon) == [f"prompt-sets/{lost}"]
    with database.transaction() as session:
        assert session.get(Garbage, f"prompt-sets/{uploaded.id}") is None
