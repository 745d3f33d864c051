"""Runs on the bundled model that several test files share."""

from pathlib import Path

import pytest
import torch

from tests.worker.engine.training.miniature import HalfRun, trainer


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run of four steps."""
    directory = tmp_path_factory.mktemp("finished")
    trainer(directory).run()
    return directory


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> HalfRun:
    """A run of the first two steps of the finished run."""
    directory = tmp_path_factory.mktemp("half")
    subject = trainer(directory, training={"max_steps": 2})
    before = {name: p.clone() for name, p in subject.model.transformer.named_parameters()}
    subject.run()
    after = dict(subject.model.transformer.named_parameters())
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    return HalfRun(directory, changed, after.keys() - changed)
