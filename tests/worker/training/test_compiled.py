"""A run whose sampling is compiled: only what no log-probability comes from differs, and that in the last digits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from tests.worker.training.miniature import MINIATURE, events, metrics, newest, spec, tensors, trainer

pytestmark = pytest.mark.timeout(900)  # a compiler that has nothing kept from before, on a busy machine
COMPILED: dict[str, Any] = {"sampling": {"compile": True}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The miniature's directory as it is, and compiled."""
    place = tmp_path_factory.mktemp("compiled")
    for name, changes in (("plain", {}), ("compiled", COMPILED)):
        trainer(place / name, **changes).run()
    return place / "plain", place / "compiled"


def test_the_first_step_is_the_same_but_for_last_digits(runs: tuple[Path, Path]) -> None:
    plain, compiled = ({name: value for (step, name), value in newest(run).items() if step == 1} for run in runs)
    assert compiled.keys() == plain.keys()
    exact = [name for name in plain if name.startswith(("anchor/", "evaluations/", "ratio/"))]
    assert {name: compiled[name] for name in exact} == {name: plain[name] for name in exact}
    assert compiled["reward/clip_score"] == pytest.approx(plain["reward/clip_score"], abs=1e-4)


def test_every_ratio_is_one_and_evaluations_are_those_of_the_plan(runs: tuple[Path, Path]) -> None:
    assert all(abs(value - 1) <= 1e-5 for _, _, value in metrics(runs[1], r"^ratio/(min|max)$"))
    counted = {value for _, name, value in metrics(runs[1]) if name == "evaluations/continuation"}
    assert counted == {make_plan(spec(**COMPILED), load_catalog()).per_prompt.continuations * 4}


def test_resuming_ends_bit_identical(runs: tuple[Path, Path], tmp_path: Path) -> None:
    resumed = trainer(tmp_path, **COMPILED)
    resumed.resume(runs[1] / "checkpoints/step-000002")
    resumed.run()
    assert tensors(tmp_path / "checkpoints/step-000004") == tensors(runs[1] / "checkpoints/step-000004")


def test_without_a_compiler_the_run_fails_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(MINIATURE | COMPILED))
    places = [str(tmp_path / "spec.json"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "worker.entrypoints.train", *places]
    environment = os.environ | {"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    (failed,) = events(tmp_path / "out", "failed")
    assert (failed["code"], "/no/such/compiler" in failed["detail"]) == ("no_compiler", True)
    assert "sampling.compile" in failed["hint"]
    assert "Loading pipeline" not in ended.stderr
