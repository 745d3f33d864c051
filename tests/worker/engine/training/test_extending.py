"""The algorithm of CONTRIBUTING.md is registered as described there, and trains."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import service.contracts.algorithms
from service.contracts.algorithms import CONTRACTS
from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from service.contracts.presets import merge
from service.contracts.runs import RunSpec
from tests.worker.engine.grpo.toy import PROMPTS, ToyFlow, roll_out
from tests.worker.engine.training.miniature import SMALL, events, metrics
from worker.engine.grpo.algorithms import ALGORITHMS
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.train import build_trainer

PAGE = Path(__file__).parents[4] / "CONTRIBUTING.md"


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's contract, registered for one test."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Add an algorithm\n")[1].split("\n## ")[0]
    texts = re.findall(r"^ *```python\n(.*?)^ *```", section, re.DOTALL | re.MULTILINE)
    contract_file, engine_file = (compile(textwrap.dedent(text), PAGE, "exec") for text in texts)
    recorded: dict[str, Any] = {"__name__": "one_step_contract"}
    exec(contract_file, recorded)
    monkeypatch.setattr(service.contracts.algorithms, "OneStepGRPO", recorded["OneStepGRPO"], raising=False)
    sampled: dict[str, Any] = {"__name__": "one_step_engine"}
    exec(engine_file, sampled)
    for registry, entries, made in (("CONTRACTS", CONTRACTS, recorded), ("ALGORITHMS", ALGORITHMS, sampled)):
        line = re.search(rf'`"(\w+)": OneStepGRPO` in `{registry}`', section)
        assert line is not None
        monkeypatch.setitem(entries, line[1], made["OneStepGRPO"])
    return recorded["OneStepGRPO"]


def spec_of(contract: Any, **changes: Any) -> RunSpec:
    """A spec class whose algorithm union contains only the page's contract."""
    extended = type("Extended", (RunSpec,), {"__annotations__": {"algorithm": contract}, "algorithm": contract()})
    spec: RunSpec = extended.model_validate(merge(SMALL, {"training": {"max_steps": 1}, **changes}))
    return spec


def test_its_algorithm_trains_for_a_step(contract: Any, tmp_path: Path) -> None:
    spec = spec_of(contract, algorithm={"name": "one_step_grpo", "group_size": 4, "at": 1})
    trainer = build_trainer(spec, load_catalog(), EventWriter(tmp_path), "cpu")
    trainer.run()
    (end,) = events(tmp_path, "finished")
    assert (end["outcome"], end["step"]) == ("succeeded", 1)
    recorded = {name: value for _, name, value in metrics(tmp_path)}
    assert recorded["ratio/max"] == pytest.approx(1, abs=1e-5)
    plan = make_plan(spec, load_catalog())
    assert recorded["elapsed/nfe"] == plan.per_step_nfe == 2 * (1 + 1 + 4 * 3)
    assert recorded["nfe/update"] == plan.per_step_updates == 2 * 4


def test_step_outside_the_schedule_is_rejected(contract: Any) -> None:
    with pytest.raises(ValidationError, match="at 4 lies outside the schedule; allowed: 0 to 3"):
        spec_of(contract, algorithm={"name": "one_step_grpo", "at": 4})


def test_chains_differ_in_one_step_only(contract: Any) -> None:
    batch = roll_out(contract(group_size=4, at=3), ToyFlow()).batch
    assert batch.sde_steps == (3,) * 4 * PROMPTS
    assert len({tuple(state.flatten().tolist()) for state in batch.states}) == PROMPTS
