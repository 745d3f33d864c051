"""The FLUX step benchmark: a small step runs completely, and the full sizes equal the sizes in the catalog."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import flux_step
from benchmarks.random_flux import MODEL, TRUE, described, flux, reward
from service.contracts.catalog import load_catalog
from service.contracts.runs import RunSpec

META = torch.device("meta")


def test_step_reports_seconds_nfe_and_memory_with_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    flux_step.main(["--tiny", "--device", "cpu", "--prompts", "2", "--json", str(file)])
    report = json.loads(file.read_text())
    parts = report["parts"]
    assert all(part["seconds"] > 0 for part in parts.values())
    assert {name: part["nfe"] for name, part in parts.items()} == {
        "encoding": 0,
        "anchor": 2 * 5,
        "branch": 0,
        "continuation": 2 * 2 * (4 + 3),  # stride 2's path is the beginning of stride 1's
        "decode": 2 * 9,
        "reward": 2 * 9,
        "update": 2 * 2,
    }
    assert all(part["planned"] == part["nfe"] for part in parts.values())
    assert report["rollout_seconds_per_prompt"] == pytest.approx(
        sum(parts[name]["seconds"] for name in ("anchor", "branch", "continuation")) / 2
    )
    assert report["memory"].keys() == {"encoding", "rollout", "scoring", "update", "whole"}
    for one in report["memory"].values():
        assert one["measured"] > 0 and one["ratio"] == one["planned"] / one["measured"]
    assert report["metrics"]["grad_norm"] > 0
    printed = capsys.readouterr().out
    assert report["command"] in printed
    assert all(f"| {name}" in printed for name in (*parts, *report["memory"]))


def test_settings_override_the_preset_and_the_last_step_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    settings = ["training.max_steps=2", "rewards=[{name: hps_v2.1}]", "training.gradient_checkpointing=true"]
    words = [word for setting in settings for word in ("--set", setting)]
    flux_step.main(["--tiny", "--device", "cpu", *words, "--json", str(file)])
    report = json.loads(file.read_text())
    assert report["metrics"]["images/total"] == 2 * report["parts"]["reward"]["nfe"]
    assert "reward/hps_v2.1" in report["metrics"] and "reward/clip_score" not in report["metrics"]


def test_full_size_requires_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flux_step.main(["--device", "cpu"])
    assert "requires a CUDA GPU" in capsys.readouterr().err


def test_full_size_model_matches_the_catalog() -> None:
    catalog = load_catalog(flux_step.CATALOG)
    names = [one.name for one in RunSpec(preset="paper-lora").rewards]
    rewards = {name: reward(catalog.reward(name).kind, TRUE, META) for name in names}
    pipeline = flux(TRUE, META, torch.bfloat16)
    assert described(catalog, TRUE, pipeline, rewards) == catalog
    entry = catalog.model(MODEL)
    sizes = entry.parameters, entry.encoder_parameters, entry.decoder_parameters
    assert sizes == (11_901_408_320, 4_885_371_136, 83_819_683)
    assert [catalog.reward(name).parameters for name in names] == [986_109_441] * 2
    assert {part.dtype for part in (pipeline.transformer, pipeline.text_encoder_2, pipeline.vae)} == {torch.bfloat16}
    assert {one.model.dtype for one in rewards.values()} == {torch.float32}
