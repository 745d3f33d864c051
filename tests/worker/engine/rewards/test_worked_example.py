"""The reward of CONTRIBUTING.md, registered as described there, scores images."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from service.contracts.catalog import REWARD_CLASSES, RewardEntry
from worker.engine.rewards import load_reward

PAGE = Path(__file__).parents[4] / "CONTRIBUTING.md"


def test_reward_is_loaded_and_scores_images(monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## Add a reward\n")[1].split("\n## ")[0]
    [source] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    line = re.search(r'`"(\w+)": "(\w+):(\w+)"`', section)
    entry = re.search(r"an entry: `(.*?)`", section)
    assert line is not None and entry is not None
    module = ModuleType(f"worker.engine.rewards.{line[2]}")
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.modules["worker.engine.rewards"], line[2], module, raising=False)
    monkeypatch.setitem(REWARD_CLASSES, line[1], f"{line[2]}:{line[3]}")

    reward = load_reward(RewardEntry.model_validate(yaml.safe_load(entry[1])), torch.device("cpu"))
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    assert reward.score(images, ["black", "white"]).tolist() == [0.0, 1.0]


def test_unknown_kind_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match=r"Unknown kind 'brightness'\. Available: clip, hps, .*"):
        RewardEntry.model_validate({"name": "brightness", "kind": "brightness"})
