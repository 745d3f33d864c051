"""A run of a model with classifier-free guidance."""

from pathlib import Path

import pytest

from service.contracts.catalog import ModelEntry
from service.contracts.plan import Plan
from tests.worker.engine.models.tiny import make
from tests.worker.engine.training.guided import run
from tests.worker.engine.training.miniature import events, metrics, tensors


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return make("sd3", tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture(scope="module")
def whole(entry: ModelEntry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(entry, out)


def test_both_rows_of_guidance_are_planned_and_counted(
    entry: ModelEntry, whole: tuple[Path, Plan], tmp_path: Path
) -> None:
    out, plan = whole
    counted = {name: value for _, name, value in metrics(out) if name == "nfe/total"}
    updates = plan.per_step_updates * 2
    assert counted["nfe/total"] == plan.total_nfe + updates
    alone = run(entry, tmp_path / "out", sampling={"guidance": 1.0})
    assert plan.total_nfe == 2 * alone.total_nfe
    assert plan.per_prompt.images == alone.per_prompt.images


def test_ratios_are_one_and_the_policy_moves(whole: tuple[Path, Plan]) -> None:
    out, _ = whole
    assert all(value <= 1e-5 for _, _, value in metrics(out, r"^ratio/first_deviation$"))
    (last,) = events(out, "finished")
    assert last["heldout"]["redness"]["difference"] != 0.0


def test_resumed_run_ends_bit_identical(entry: ModelEntry, whole: tuple[Path, Plan], tmp_path: Path) -> None:
    out, _ = whole
    run(entry, tmp_path / "out", resume=out / "checkpoints" / "step-000001")
    last = Path("checkpoints") / "step-000002"
    assert tensors(tmp_path / "out" / last) == tensors(out / last)
