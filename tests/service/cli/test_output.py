"""Output formats, ids in arguments, and errors of the commands, against a running service."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from rich.console import Console
from typer.testing import CliRunner, Result

from service.app import create_app
from service.cli import app as commands
from service.cli import console
from service.client import Client
from service.contracts.status import JobStatus
from service.db.models import Run

NAME = "a name that is much longer than the column of a terminal with eighty characters"


@pytest.fixture(scope="module")
def served(module_database: Any, serve: Callable[..., Any]) -> Iterator[str]:
    """The URL of the service."""
    with serve(create_app(module_database.settings)) as url:
        yield url


@pytest.fixture(scope="module")
def runs(module_records: Any) -> list[Run]:
    """Three runs; the first has succeeded and has metrics."""
    found = [module_records.run(JobStatus.SUCCEEDED if number == 0 else "queued", name=NAME) for number in range(3)]
    for metric in ("heldout/clip_score", "loss"):
        module_records.metric(found[0], metric, [0.5, 0.75])
    return found


@pytest.fixture(scope="module")
def g2rpo(served: str, runs: list[Run]) -> Callable[..., Result]:
    """Runs a command against the service, in a pipe."""
    environment = {"G2RPO_URL": served, "COLUMNS": "80"}
    return lambda *words: CliRunner().invoke(commands, [str(word) for word in words], env=environment)


class TestFormats:
    def test_pipes_get_complete_rows_without_styles(self, g2rpo: Any, runs: list[Run]) -> None:
        header, *rows = g2rpo("runs", "list").stdout.splitlines()
        assert header.split() == ["id", "name", "status", "model", "created", "at", "step"]
        assert len(rows) == 3
        for row, run in zip(rows, reversed(runs), strict=True):
            assert row.startswith(f"{run.id}  {NAME}  {run.status} ")
        assert "\x1b" not in g2rpo("runs", "list").output

    def test_narrow_terminals_wrap_rows_between_words(
        self, monkeypatch: pytest.MonkeyPatch, served: str, runs: list[Run]
    ) -> None:
        narrow = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60)
        monkeypatch.setattr(console, "stdout", narrow)
        with Client(served) as client:
            console.print_items(client.runs(), "id", "name", run=lambda run: run.id)
        shown = narrow.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in shown
        assert all(shown.count(str(run.id)) == 2 for run in runs)
        assert shown.split().count("terminal") == 3

    def test_json_is_the_model_and_quiet_its_id(self, g2rpo: Any, served: str, runs: list[Run]) -> None:
        ids = [str(run.id) for run in reversed(runs)]
        with Client(served) as client:
            listed = [one.model_dump(mode="json") for one in client.runs()]
            shown = client.run(ids[0]).model_dump(mode="json")
        assert json.loads(g2rpo("runs", "list", "--json").stdout) == listed
        assert json.loads(g2rpo("runs", "show", ids[0], "--json").stdout) == shown
        assert g2rpo("runs", "list", "--quiet").stdout.split() == ids
        assert g2rpo("runs", "list", "-q", "--limit", 1).stdout.split() == ids[:1]
        assert g2rpo("runs", "show", ids[0], "-q").stdout.split() == ids[:1]
        assert "cannot be combined" in g2rpo("runs", "list", "--json", "--quiet").output

    def test_other_models_are_named_by_their_names(self, g2rpo: Any) -> None:
        assert "shapes-train" in g2rpo("prompt-sets", "list", "--quiet").stdout.split()
        names = g2rpo("catalog", "--quiet").stdout.split()
        assert {"shapes-flux", "paper-lora", "clip_score", "shapes-train"} <= set(names)
        assert "no id" in g2rpo("plan", "--quiet").output
        assert json.loads(g2rpo("plan", "--json").stdout)["spec"]["preset"] == "shapes"

    def test_all_list_and_show_commands_have_both_formats(self) -> None:
        found = set()
        for group_name, group in typer.main.get_command(commands).commands.items():  # type: ignore[attr-defined]
            for name, command in getattr(group, "commands", {}).items():
                if name in ("list", "show"):
                    found.add(group_name)
                    assert {"as_json", "quiet"} <= {parameter.name for parameter in command.params}, group_name
        assert found == {"runs", "checkpoints", "prompt-sets", "evaluations", "benchmarks", "keys"}


class TestIds:
    def test_a_unique_beginning_or_end_is_enough(self, g2rpo: Any, runs: list[Run]) -> None:
        id = str(runs[0].id)
        for text in (id, id[:-1], id[-8:], id[-8:].upper(), id.replace("-", "")):
            assert g2rpo("runs", "show", text, "-q").stdout.strip() == id, text
        short = id[-8:]
        done = g2rpo("curves", "--run", short, "--group", f"g={short}", "--metric", "loss", "--json")
        assert done.exit_code == 0, done.output
        assert [one["runs"] for one in json.loads(done.stdout)] == [[id], [id]]

    @pytest.mark.parametrize("noun", ["runs", "checkpoints", "evaluations"])
    def test_an_unknown_or_short_id_is_an_error(self, g2rpo: Any, noun: str) -> None:
        done = g2rpo(noun, "show", "12345678")
        assert done.exit_code == 2
        assert f"No {noun[:-1]} has an id that starts or ends with '12345678'" in done.output
        assert "give at least 4 characters" in g2rpo(noun, "show", "123").output

    def test_the_checkpoint_of_a_spec_is_found(self, g2rpo: Any, module_records: Any, runs: list[Run]) -> None:
        id = str(module_records.checkpoint(runs[0], {"a": b""}).id)
        planned = g2rpo("plan", "--set", f"start_from='{id[-8:]}'", "--json")
        assert json.loads(planned.stdout)["spec"]["start_from"] == id
        assert "No checkpoint has an id" in g2rpo("runs", "create", "--set", "start_from=nothing").output

    def test_an_ambiguous_id_names_the_candidates(self, g2rpo: Any, runs: list[Run]) -> None:
        done = g2rpo("runs", "cancel", str(runs[0].id)[:4])
        assert done.exit_code == 2
        assert all(str(run.id) in done.output for run in runs)


class TestErrors:
    def test_unknown_metrics_are_errors_with_the_recorded_metrics(self, g2rpo: Any, runs: list[Run]) -> None:
        for command in (("runs", "curves", runs[0].id), ("curves", "--run", runs[0].id)):
            done = g2rpo(*command, "--metric", "heldout/clip_scor")
            assert done.exit_code == 2
            assert "Unknown metric 'heldout/clip_scor' (did you mean 'heldout/clip_score'?)" in done.output
            assert "recorded: heldout/clip_score, loss" in done.output

    def test_a_traceback_is_printed_only_with_debug(self) -> None:
        environment = {"G2RPO_URL": "ftp://127.0.0.1"}
        plain = CliRunner().invoke(commands, ["runs", "list"], env=environment)
        debug = CliRunner().invoke(commands, ["--debug", "runs", "list"], env=environment)
        assert plain.exit_code == debug.exit_code == 2
        assert len(plain.stderr.splitlines()) == 1 and plain.stderr.startswith("error: Invalid service URL")
        assert debug.stderr.startswith("Traceback") and debug.stderr.endswith(plain.stderr)

    def test_the_response_of_another_server_is_an_error(self, serve: Any) -> None:
        other = FastAPI()

        @other.get("/catalog")
        def catalog() -> dict[str, str]:
            return {"status": "ok"}

        with serve(other) as url:
            done = CliRunner().invoke(commands, ["catalog"], env={"G2RPO_URL": url})
        assert done.exit_code == 2
        assert f"Unexpected response to GET {url}/catalog" in done.stderr

    def test_the_presets_are_described(self, g2rpo: Any) -> None:
        assert "paper-lora" in g2rpo("catalog").stdout
        assert "to fit on one 80 GB GPU" in g2rpo("catalog").stdout


class TestWatch:
    def test_an_ended_run_is_shown(self, g2rpo: Any, runs: list[Run]) -> None:
        done = g2rpo("runs", "watch", str(runs[0].id)[-8:])
        assert done.exit_code == 0, done.output
        assert f"run {runs[0].id} ({NAME}): succeeded" in done.output
