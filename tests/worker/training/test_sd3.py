"""A run of a model with classifier-free guidance."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.contracts.catalog import Catalog, RewardEntry
from service.contracts.plan import Plan, make_plan
from service.contracts.runs import RunSpec
from tests.worker.models.tiny import PROMPTS, make
from tests.worker.training.miniature import events, metrics, tensors
from worker.models import load_model
from worker.rewards.base import Reward
from worker.training.events import EventWriter
from worker.training.ranks import Ranks
from worker.training.trainer import Trainer

CPU = torch.device("cpu")


class Redness(Reward):
    """How much of the picture is red."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Redness":
        return cls()

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return pictures[:, 0].mean(dim=(1, 2))


def run(place: Path, out: Path, resume: Path | None = None, guidance: float = 3.5) -> Plan:
    """A run of two steps into `out`, and what was planned."""
    entry = make("sd3", place)
    spec = RunSpec.model_validate(
        {
            "model": entry.name,
            "sampling": {"steps": 4, "width": 32, "height": 16, "guidance": guidance},
            "algorithm": {"group_size": 3, "sde_steps": [0, 1]},
            "rewards": [{"name": "redness"}],
            "prompts": {"items": PROMPTS},
            "training": {"max_steps": 2, "prompts_per_step": 2, "update_batch_size": 2, "lora_rank": 4},
            "evaluation": {"every": 1, "pairs": 4, "final_pairs": 4, "samples": 1},
            "checkpoints": {"every": 1},
        }
    )
    out.mkdir()
    model = load_model(entry, CPU, torch.float32)
    trainer = Trainer(spec, model, {"redness": Redness()}, tuple(PROMPTS), tuple(PROMPTS), EventWriter(out), Ranks(CPU))
    if resume is not None:
        trainer.resume(resume)
    trainer.run()
    return make_plan(spec, Catalog(models=(entry,), rewards=(), prompt_sets=()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    place = tmp_path_factory.mktemp("sd3")
    return place / "out", run(place / "model", place / "out")


def test_both_rows_of_guidance_are_planned_and_counted(whole: tuple[Path, Plan], tmp_path: Path) -> None:
    out, plan = whole
    counted = {name: value for _, name, value in metrics(out) if name == "evaluations/total"}
    updates = plan.per_step_updates * 2
    assert counted["evaluations/total"] == plan.total_evaluations + updates
    alone = run(tmp_path / "model", tmp_path / "out", guidance=1.0)
    assert plan.total_evaluations == 2 * alone.total_evaluations
    assert plan.per_prompt.images == alone.per_prompt.images


def test_ratios_are_one_and_the_policy_moves(whole: tuple[Path, Plan]) -> None:
    out, _ = whole
    assert all(value <= 1e-5 for _, _, value in metrics(out, r"^ratio/first_deviation$"))
    (last,) = events(out, "finished")
    assert last["heldout"]["redness"]["difference"] != 0.0


def test_a_resumed_run_ends_with_the_same_bits(whole: tuple[Path, Plan], tmp_path: Path) -> None:
    out, _ = whole
    run(tmp_path / "model", tmp_path / "out", resume=out / "checkpoints" / "step-000001")
    last = Path("checkpoints") / "step-000002"
    assert tensors(tmp_path / "out" / last) == tensors(out / last)
