"""Checkpoints: written beside, made durable, then renamed into place; the manifest with hashes is the last file."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contracts.jobs import MANIFEST_FILE, CheckpointFile, CheckpointManifest
from service.contracts.runs import RunSpec
from worker.engine.models.base import FlowModel
from worker.engine.models.sharding import like, whole_tensors
from worker.engine.training.optimizer import Updater

OPTIMIZER_FILE = "optimizer.safetensors"
OWN_WEIGHTS_FILE = "own_weights.safetensors"
"""The trained weights themselves, where a moving average of them is what the checkpoint offers."""
STATE_FILE = "state.json"


@dataclass
class TrainingState:
    """What a continuation needs beside weights and optimizer. Draws are addressed: there is no generator to save."""

    step: int
    nfe: int
    images: int
    heldout_before: dict[str, list[float]]
    skipped_updates: int
    bad_steps: int
    evaluated: bool = True
    """Whether the evaluation that is due after this step has been done."""
    threads: int | None = None
    """Threads of each process that computed it; on a CPU another number gives other last bits."""
    processes: int = 1
    """Processes that computed it, likewise."""
    training_nfe: int = 0
    elapsed_seconds: float = 0.0
    best: tuple[float | None, int] = (None, 0)
    """Of `checkpoints.best`: the highest value, and evaluations since."""
    rising: tuple[float | None, int] = (None, 0)
    """Of `heldout.early_stop`, the same."""
    missing_steps: dict[str, int] = field(default_factory=dict)
    """Steps in a row in which a reward failed too often, by name."""


def save_checkpoint(
    root: Path, spec: RunSpec, model: FlowModel, updater: Updater, state: TrainingState, writes: bool = True
) -> Path:
    """Write `root/step-NNNNNN` and return it. Nothing of that name exists until it is whole; older ones stay valid.

    Every rank of a run calls it, and one `writes`: what is sharded is put together for that one, tensor by tensor.
    """
    final = root / f"step-{state.step:06d}"
    partial = root / f".{final.name}.partial"
    if not writes:
        _save_tensors(None, model, updater)
        return final
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _save_tensors(partial, model, updater)
        (partial / STATE_FILE).write_text(json.dumps(vars(state)), encoding="utf-8")
        files = tuple(_describe(path, partial) for path in sorted(partial.rglob("*")) if path.is_file())
        manifest = CheckpointManifest(
            model=spec.model,
            architecture=model.architecture(),
            kind=spec.training.adapter,
            step=state.step,
            lora_rank=spec.training.lora_rank if spec.training.adapter == "lora" else None,
            lora_alpha=spec.training.lora_alpha if spec.training.adapter == "lora" else None,
            spec=spec.model_dump(mode="json"),
            files=files,
        )
        (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        partial.rename(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _save_tensors(directory: Path | None, model: FlowModel, updater: Updater) -> None:
    """Put weights and optimizer together, and write them if there is a directory."""
    with updater.offered_weights():
        model.save_trained(directory)
    files = {OPTIMIZER_FILE: _optimizer_tensors(updater.optimizer)}
    if updater.ema is not None:
        files[OWN_WEIGHTS_FILE] = {str(index): parameter.detach() for index, parameter in enumerate(updater.parameters)}
    for name, tensors in files.items():
        found = whole_tensors(tensors, keep=directory is not None)
        if directory is not None:
            save_file(found, directory / name)


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint whose every file is there, whole and unchanged; ValueError says which is not."""
    try:
        manifest = CheckpointManifest.model_validate_json((directory / MANIFEST_FILE).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{directory} is no checkpoint: it has no {MANIFEST_FILE}") from error
    for file in manifest.files:
        path = directory / file.name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"checkpoint file {file.name!r} lies outside its directory")
        if not path.is_file() or _describe(path, directory) != file:
            raise ValueError(f"checkpoint file {file.name!r} in {directory} is missing or was changed")
    return manifest


def load_weights(directory: Path, spec: RunSpec, model: FlowModel) -> None:
    """Start `model`'s trained weights from a checkpoint; ValueError where it belongs to another model or adapter."""
    manifest = read_manifest(directory)
    training = spec.training
    lora = (training.lora_rank, training.lora_alpha) if training.adapter == "lora" else (None, None)
    wanted = (model.architecture(), training.adapter, *lora)
    # Imported weights know no architecture: the shapes of their tensors decide when they are loaded.
    found = (manifest.architecture or wanted[0], manifest.kind, manifest.lora_rank, manifest.lora_alpha)
    if wanted != found:
        raise ValueError(
            f"the checkpoint (architecture {found[0]}, {found[1]}, rank {found[2]}, alpha {found[3]}) does not fit "
            f"the run (architecture {wanted[0]}, {wanted[1]}, rank {wanted[2]}, alpha {wanted[3]})"
        )
    model.load_trained(directory)


def load_training(directory: Path, spec: RunSpec, model: FlowModel, updater: Updater) -> TrainingState:
    """Continue exactly: weights, their average, optimizer and state of a checkpoint of the same run."""
    load_weights(directory, spec, model)
    if updater.ema is not None:
        updater.ema.reset()
        own = load_file(directory / OWN_WEIGHTS_FILE)
        with torch.no_grad():
            for number, parameter in enumerate(updater.parameters):
                parameter.copy_(like(own[str(number)], parameter))
    saved = load_file(directory / OPTIMIZER_FILE)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        index, key = name.split(".", 1)
        parameter = updater.parameters[int(index)]
        states.setdefault(int(index), {})[key] = like(tensor, parameter) if tensor.shape == parameter.shape else tensor
    updater.optimizer.load_state_dict({**updater.optimizer.state_dict(), "state": states})
    state = TrainingState(**json.loads((directory / STATE_FILE).read_text(encoding="utf-8")))
    updater.skipped, updater.bad_steps = state.skipped_updates, state.bad_steps
    return state


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value.contiguous() for index, state in states.items() for key, value in state.items()}


def _describe(path: Path, root: Path) -> CheckpointFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return CheckpointFile(name=path.relative_to(root).as_posix(), sha256=digest, size=path.stat().st_size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
