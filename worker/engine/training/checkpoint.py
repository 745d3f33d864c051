"""Saving and restoring of checkpoints.

A checkpoint is written to a temporary directory, synced and renamed. The manifest with the hashes is written last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful

from service.contracts.attempt_files import MANIFEST_FILE, CheckpointFile, CheckpointManifest
from service.contracts.events import CheckpointSaved
from worker.engine.models.sharding import like, whole_tensors
from worker.engine.training.optimizer import PolicyOptimizer
from worker.engine.training.run_context import RunContext

OPTIMIZER_FILE = "optimizer.safetensors"
PARAMETERS_FILE = "parameters.safetensors"
"""The trained weights. Written only if the checkpoint publishes their moving average."""
STATE_FILE = "state.json"


class Checkpointer:
    """Saves the state of a run after its last complete step and restores it exactly.

    state: the components of the run that have a `state_dict`. The noise has no state, because it depends only on the
    seed and the step.
    """

    def __init__(self, context: RunContext, optimizer: PolicyOptimizer, state: Mapping[str, Stateful]) -> None:
        self._spec, self._model, self._optimizer, self._parts = context.spec, context.model, optimizer, state
        self._events, self._progress, self._distributed = context.events, context.progress, context.distributed
        self._fulfilled = 0
        """The number of the latest checkpoint request that was fulfilled."""
        self.snapshot()

    def snapshot(self) -> None:
        """Record the state between two steps for the next checkpoint. All processes must call this method."""
        self._state = {name: part.state_dict() for name, part in self._parts.items()}
        self._state["process"] = {"threads": torch.get_num_threads(), "number": self._distributed.world_size}
        self._saved: Path | None = None

    def save_if_due(self, last: bool, best: float | None, resumed: bool) -> None:
        """Save a checkpoint if it is scheduled, the held-out value is a new best, or the supervisor requests one.

        last: whether the run ends at this step. best: the held-out value if it is the best so far, otherwise None.
        resumed: whether the state has just been restored from a checkpoint.
        """
        step, every = self._progress.step, self._spec.checkpoints.every
        scheduled = last or bool(every and step > 0 and step % every == 0)
        request = self._newest_request()
        if ((scheduled or best is not None) and not resumed) or request > self._fulfilled:
            self._save(request, best)

    def save(self, best: float | None) -> None:
        """Save the last snapshot. All processes must call this method."""
        self._save(self._newest_request(), best)

    def _newest_request(self) -> int:
        return self._distributed.broadcast(self._progress.control.checkpoint_request())

    def _save(self, request: int, best: float | None) -> None:
        if self._saved is None:
            self._progress.report("checkpoint")
            self._saved = self._write()
        self._fulfilled = request
        directory = self._saved.relative_to(self._events.directory).as_posix()
        self._events.write(CheckpointSaved(step=self._progress.step, directory=directory, request=request, best=best))

    def start_from(self, directory: Path) -> None:
        """Load the weights of a checkpoint, without its optimizer state.

        Raises ValueError if the checkpoint is damaged or does not fit the run.
        """
        manifest = read_manifest(directory)
        training = self._spec.training
        lora = (training.lora_rank, training.lora_alpha) if training.adapter == "lora" else (None, None)
        expected = (self._model.architecture(), training.adapter, *lora)
        # Imported weights declare no architecture. Loading them compares the tensor shapes.
        found = (manifest.architecture or expected[0], manifest.kind, manifest.lora_rank, manifest.lora_alpha)
        if expected != found:
            raise ValueError(
                f"the checkpoint (architecture {found[0]}, {found[1]}, rank {found[2]}, alpha {found[3]}) does not fit "
                f"the run (architecture {expected[0]}, {expected[1]}, rank {expected[2]}, alpha {expected[3]})"
            )
        self._model.load_trained(directory)
        if self._optimizer.ema is not None:
            self._optimizer.ema.reset()

    def resume(self, directory: Path) -> None:
        """Restore the weights, moving average, optimizer and state from a checkpoint of this run."""
        self.start_from(directory)
        parameters, adamw = self._optimizer.parameters, self._optimizer.adamw
        if self._optimizer.ema is not None:
            own = load_file(directory / PARAMETERS_FILE)
            with torch.no_grad():
                for index, parameter in enumerate(parameters):
                    parameter.copy_(like(own[str(index)], parameter))
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in load_file(directory / OPTIMIZER_FILE).items():
            index, key = int(name.split(".", 1)[0]), name.split(".", 1)[1]
            parameter = parameters[index]
            states.setdefault(index, {})[key] = like(tensor, parameter) if tensor.shape == parameter.shape else tensor
        adamw.load_state_dict({**adamw.state_dict(), "state": states})
        state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._state = state
        if self._model.device.type == "cpu" and state["process"]["number"] == self._distributed.world_size:
            torch.set_num_threads(state["process"]["threads"])  # on a CPU, the last bits depend on this number

    def _write(self) -> Path:
        """Write the checkpoint and return its directory, `checkpoints/step-NNNNNN`.

        The directory exists only once it is complete. All processes must call this method.
        """
        step, training = self._progress.step, self._spec.training
        root = self._events.directory / "checkpoints"
        final = root / f"step-{step:06d}"
        partial = root / f".{final.name}.partial"
        if not self._distributed.is_main:
            self._save_tensors(None)
            return final
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self._save_tensors(partial)
            (partial / STATE_FILE).write_text(json.dumps(self._state), encoding="utf-8")
            files = tuple(_describe(path, partial) for path in sorted(partial.rglob("*")) if path.is_file())
            manifest = CheckpointManifest(
                model=self._spec.model,
                architecture=self._model.architecture(),
                kind=training.adapter,
                step=step,
                lora_rank=training.lora_rank if training.adapter == "lora" else None,
                lora_alpha=training.lora_alpha if training.adapter == "lora" else None,
                spec=self._spec.model_dump(mode="json"),
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

    def _save_tensors(self, directory: Path | None) -> None:
        """Gather weights and optimizer state tensor by tensor, and write them to `directory` unless it is None."""
        optimizer = self._optimizer
        with optimizer.published_weights():
            self._model.save_trained(directory)
        states = optimizer.adamw.state_dict()["state"].items()
        files = {OPTIMIZER_FILE: {f"{i}.{key}": t.contiguous() for i, state in states for key, t in state.items()}}
        if optimizer.ema is not None:
            files[PARAMETERS_FILE] = {str(i): parameter.detach() for i, parameter in enumerate(optimizer.parameters)}
        for name, tensors in files.items():
            gathered = whole_tensors(tensors, keep=directory is not None)
            if directory is not None:
                save_file(gathered, directory / name)


def read_manifest(directory: Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint after verifying its files.

    Raises ValueError, which names the first file that is missing, changed or outside the directory.
    """
    try:
        manifest = CheckpointManifest.model_validate_json((directory / MANIFEST_FILE).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{directory} is not a checkpoint: it has no {MANIFEST_FILE}") from error
    for file in manifest.files:
        path = directory / file.name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"checkpoint file {file.name!r} is outside the checkpoint's directory")
        if not path.is_file() or _describe(path, directory) != file:
            raise ValueError(f"checkpoint file {file.name!r} in {directory} is missing or was changed")
    return manifest


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
