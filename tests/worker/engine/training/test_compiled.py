"""A run with compiled sampling: only evaluations without log-probabilities differ, and only in the last digits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo
import torch._inductor.config
from torch._inductor.utils import fresh_cache

from service.contracts.catalog import load_catalog
from service.contracts.plan import Plan, make_plan
from service.contracts.presets import merge
from tests.worker.engine.models.tiny import ONE_BLOCK, make
from tests.worker.engine.training import guided
from tests.worker.engine.training.miniature import MINIATURE, events, metrics, newest, spec, tensors, trainer
from worker.entrypoints.train import main

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),  # a compiler without cached results, on a busy machine
]
COMPILED: dict[str, Any] = {"sampling": {"compile": True}}
TWO_STEPS: dict[str, Any] = {"training": {"max_steps": 2}, "heldout": {"every": 1}, "checkpoints": {"every": 1}}


@dataclass(frozen=True)
class Runs:
    """A run of two steps, the same run with compilation, and a resumed run."""

    plain: Path
    compiled: Path
    reward: str
    prompts: int
    plan: Plan
    resume: Callable[[Path, Path], object]


@pytest.fixture(scope="module", autouse=True)
def scalar_kernels() -> Iterator[None]:
    """Compile kernels without vector instructions, which is much faster; these tests do not depend on the kernels."""
    with torch._inductor.config.patch({"cpp.simdlen": 1}):
        yield


def tiny_runs(place: Path) -> Runs:
    """Runs of a tiny model with guidance, in batches of the shape that `models/test_compile.py` also compiles."""
    entry = make(ONE_BLOCK, place / "model")
    sampling = {"height": 32, "rollout_batch_size": 4}
    guided.run(entry, place / "plain", sampling=sampling)
    changes = merge({"sampling": sampling}, COMPILED)
    plan = guided.run(entry, place / "compiled", **changes)
    return Runs(
        place / "plain",
        place / "compiled",
        "redness",
        guided.SPEC["training"]["prompts_per_step"],
        plan,
        lambda checkpoint, out: guided.run(entry, out, resume=checkpoint, **changes),
    )


def bundled_runs(place: Path) -> Runs:
    """Runs of the bundled model."""
    changes = merge(TWO_STEPS, COMPILED)
    trainer(place / "plain", **TWO_STEPS).run()
    trainer(place / "compiled", **changes).run()

    def resume(checkpoint: Path, out: Path) -> None:
        resumed = trainer(out, **changes)
        resumed.checkpoints.resume(checkpoint)
        resumed.run()

    prompts = MINIATURE["training"]["prompts_per_step"]
    plan = make_plan(spec(**changes), load_catalog())
    return Runs(place / "plain", place / "compiled", "clip_score", prompts, plan, resume)


@pytest.fixture(scope="module", params=[tiny_runs, pytest.param(bundled_runs, marks=pytest.mark.slow)])
def runs(compiler: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made: Runs = request.param(tmp_path_factory.mktemp("compiled"))
    return made


def test_first_step_is_equal_up_to_rounding(runs: Runs) -> None:
    plain, compiled = (
        {name: value for (step, name), value in newest(run).items() if step == 1} for run in (runs.plain, runs.compiled)
    )
    assert compiled.keys() == plain.keys()
    exact = [name for name in plain if name.startswith(("anchor/", "nfe/", "ratio/"))]
    assert {name: compiled[name] for name in exact} == {name: plain[name] for name in exact}
    assert compiled[f"reward/{runs.reward}"] == pytest.approx(plain[f"reward/{runs.reward}"], abs=1e-4)
    last = "checkpoints/step-000002"
    assert tensors(runs.compiled / last) != tensors(runs.plain / last)  # a different order of operations


def test_ratios_are_one_and_nfe_equals_the_plan(runs: Runs) -> None:
    assert all(abs(value - 1) <= 1e-5 for _, _, value in metrics(runs.compiled, r"^ratio/(min|max)$"))
    counted = {value for _, name, value in metrics(runs.compiled) if name == "nfe/continuation"}
    assert counted == {runs.plan.per_prompt.continuations * runs.prompts}


def test_resuming_ends_bit_identical(runs: Runs, tmp_path: Path) -> None:
    runs.resume(runs.compiled / "checkpoints/step-000001", tmp_path / "resumed")
    last = "checkpoints/step-000002"
    assert tensors(tmp_path / "resumed" / last) == tensors(runs.compiled / last)


def test_without_a_compiler_the_run_fails_before_the_model_is_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").write_text(spec(**COMPILED).model_dump_json())
    torch._dynamo.reset()  # cached results need no compiler
    with fresh_cache(dir=str(tmp_path)), torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")}):
        status = main([str(tmp_path / "spec.json"), "--out", str(tmp_path / "out"), "--device", "cpu"])

    assert status == 1
    (failed,) = events(tmp_path / "out", "failed")
    assert (failed["code"], "/no/such/compiler" in failed["detail"]) == ("no_compiler", True)
    assert "sampling.compile" in failed["hint"]
    assert "Loading pipeline" not in capfd.readouterr().err
