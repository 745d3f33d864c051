"""The command line with a running service."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.cli import app
from service.client import Client
from service.contracts.status import JobStatus

pytestmark = pytest.mark.long


class TestRuns:
    def test_watch_of_a_run_from_a_file_ends_with_its_failure(
        self, g2rpo: Any, client: Client, tiny: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "spec.yaml"
        file.write_text(yaml.safe_dump(tiny))

        done = g2rpo("runs", "create", "--file", file, "--set", "prompts={items: [a xyzzy circle]}", "--watch")

        assert done.exit_code == 1, done.output
        assert "xyzzy" in done.output
        run = client.run(done.output.split()[1])
        assert run.status is JobStatus.FAILED and run.max_steps == 2
        assert run.error is not None and run.error.code == "bad_config"
        assert "xyzzy" in run.error.detail

    def test_an_invalid_spec_from_standard_input_is_an_error_with_a_reason(self, g2rpo: Any) -> None:
        done = g2rpo("runs", "create", "--file", "-", input=json.dumps({"algorithm": {"group_size": 1}}))

        assert done.exit_code == 2
        assert "group_size" in done.output
        assert "Traceback" not in done.output

    def test_list_and_show_contain_the_run(self, g2rpo: Any, finished: Any) -> None:
        assert str(finished.id) in g2rpo("runs", "list", "--status", "succeeded").output
        shown = g2rpo("runs", "show", finished.id).output
        assert "(tiny): succeeded" in shown
        assert "checkpoint" in shown

    def test_show_of_an_unknown_run_is_an_error(self, g2rpo: Any) -> None:
        done = g2rpo("runs", "show", "00000000-0000-0000-0000-000000000000")
        assert done.exit_code == 2
        assert "not found" in done.output

    def test_curves_are_printed_and_written_to_files(self, g2rpo: Any, finished: Any, tmp_path: Path) -> None:
        assert "heldout/clip_score" in g2rpo("runs", "curves", finished.id, "--metric", "heldout/*").output
        for name in ("curves.csv", "curves.png", "curves.svg"):
            assert g2rpo("runs", "curves", finished.id, "--out", tmp_path / name).exit_code == 0
            assert (tmp_path / name).stat().st_size > 100

    def test_runs_are_compared(self, g2rpo: Any, finished: Any, tmp_path: Path) -> None:
        command = ("curves", "--group", f"seeds={finished.id}", "--run", finished.id, "--metric", "heldout/clip_score")
        printed = g2rpo(*command)
        assert printed.exit_code == 0, printed.output
        assert "seeds" in printed.output and "tiny" in printed.output
        for name in ("both.csv", "both.json", "both.png", "both.svg"):
            assert g2rpo(*command, "--out", tmp_path / name).exit_code == 0
            assert (tmp_path / name).stat().st_size > 100

    def test_a_comparison_without_runs_is_an_error(self, g2rpo: Any) -> None:
        for words in (("--group", "abc"), ("--group", "g=1", "--group", "g=2"), ("--out", "figure.pdf"), ()):
            done = g2rpo("curves", "--metric", "loss", *words)
            assert done.exit_code == 2 and "Traceback" not in done.output

    def test_a_metric_that_was_not_recorded_is_an_error(self, g2rpo: Any, finished: Any) -> None:
        done = g2rpo("curves", "--run", finished.id, "--metric", "nothing")
        assert done.exit_code == 2
        assert "Unknown metric 'nothing'; recorded: " in done.output

    def test_logs_cancel_and_spec(self, g2rpo: Any, finished: Any) -> None:
        assert g2rpo("runs", "logs", finished.id).exit_code == 0
        assert "is succeeded" in g2rpo("runs", "cancel", finished.id).output
        assert yaml.safe_load(g2rpo("runs", "spec", finished.id).output)["name"] == "tiny"


class TestOthers:
    def test_generate_saves_images_and_a_grid(self, g2rpo: Any, tmp_path: Path) -> None:
        done = g2rpo("generate", "-p", "a red circle", "-n", 2, "--steps", 2, "--out", tmp_path)

        assert done.exit_code == 0, done.output
        assert len(list(tmp_path.glob("*-base-*.png"))) == 2
        assert (tmp_path / "grid.png").exists()

    def test_catalog_lists_all_names(self, g2rpo: Any) -> None:
        printed = g2rpo("catalog").output
        for name in ("shapes-flux", "clip_score", "shapes-train", "perception", "train on"):
            assert name in printed

    def test_the_plan_of_the_paper_has_its_nfe(self, g2rpo: Any) -> None:
        assert "1708 NFE" in g2rpo("plan", "--set", "preset=paper").output

    def test_a_setting_without_a_value_is_an_error(self, g2rpo: Any) -> None:
        done = g2rpo("plan", "--set", "preset")
        assert done.exit_code == 2
        assert "path.to.field=value" in done.output

    def test_an_unreachable_service_is_an_error_without_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(Client.__init__.__kwdefaults__, "patience", 0.5)
        done = CliRunner().invoke(app, ["catalog"], env={"G2RPO_URL": "http://127.0.0.1:1"})
        assert done.exit_code == 2
        assert "is the service running" in done.output


class TestCourse:
    def test_running_and_queued_runs_are_cancelled_and_deleted(
        self, g2rpo: Any, client: Client, tiny: Any, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        long = {**tiny, "training": {**tiny["training"], "max_steps": 100_000}, "heldout": {"every": 0}}
        id = g2rpo("runs", "create", "--file", "-", input=json.dumps(long)).output.strip()
        waiting = client.create_run(long)
        eventually(lambda: "reward/clip_score" in client.run(id).metrics)
        assert client.run(waiting.id).queue_position == 1

        assert client.cancel(waiting.id).status is JobStatus.CANCELLED  # immediately
        assert "is cancelling" in g2rpo("runs", "cancel", id).output
        first, second = client.cancel(id), client.cancel(id)
        assert first.cancel_requested_at == second.cancel_requested_at is not None
        run = client.wait_for_run(id, timeout=60, every=0.1)
        assert run.status is JobStatus.CANCELLED
        assert client.cancel(id).status is JobStatus.CANCELLED  # the status remains
        assert client.run(waiting.id).attempt == 0  # never claimed

        listed = g2rpo("runs", "attempts", id).output
        assert "cancelled" in listed and "cpu" in listed
        assert g2rpo("runs", "delete", id, input="n\n").exit_code != 0
        assert g2rpo("runs", "delete", id, "--yes").exit_code == 0
        assert "not found" in g2rpo("runs", "show", id).output

    def test_each_event_is_a_line(self, g2rpo: Any, finished: Any) -> None:
        lines = g2rpo("runs", "events", finished.id).output.splitlines()
        assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
        assert '"succeeded"' in lines[-1]
        assert g2rpo("runs", "events", finished.id, "--follow", "--after", 2).output.splitlines() == lines[2:]

    def test_name_notes_and_labels_are_updated(self, g2rpo: Any, client: Client, finished: Any) -> None:
        done = g2rpo("runs", "edit", finished.id, "--notes", "good", "--label", "kept:yes", "--label", "by:hand")
        assert done.exit_code == 0, done.output
        run = client.run(finished.id)
        assert (run.name, run.notes, run.labels) == ("tiny", "good", {"kept": "yes", "by": "hand"})
        assert "Nothing to change" in g2rpo("runs", "edit", finished.id).output
        assert "write KEY:VALUE" in g2rpo("runs", "edit", finished.id, "--label", "kept").output


class TestCheckpoints:
    def test_a_checkpoint_is_shown_downloaded_imported_cloned_from_and_deleted(
        self, g2rpo: Any, client: Client, finished: Any, tmp_path: Path
    ) -> None:
        id = str(next(client.checkpoints(finished.id)).id)
        assert id in g2rpo("checkpoints", "list", "--run", finished.id).output
        assert yaml.safe_load(g2rpo("checkpoints", "show", id).output)["manifest"]["lora_rank"] == 4
        assert g2rpo("checkpoints", "download", id, "--out", tmp_path / "out").exit_code == 0

        weights = tmp_path / "out" / "pytorch_lora_weights.safetensors"
        imported = g2rpo("checkpoints", "import", weights, "--model", "shapes-flux", "--name", "again").output.strip()
        assert imported in g2rpo("checkpoints", "list", "--imported").output
        assert id not in g2rpo("checkpoints", "list", "--imported").output

        changes = ("training.max_steps=1", "name=clone", f"start_from={imported}")
        words = [word for change in changes for word in ("--set", change)]
        done = g2rpo("runs", "clone", finished.id, *words, "--watch")
        assert done.exit_code == 0, done.output
        assert "(clone): succeeded, step 1 of 1" in done.output
        assert "95% interval" in done.output
        assert str(client.run(done.output.split()[1]).start_from) == imported

        assert g2rpo("checkpoints", "delete", imported, "--yes").exit_code == 0
        assert imported not in g2rpo("checkpoints", "list", "--imported").output
