"""Encoded prompts, kept: each is encoded once and ahead of its use, so that the encoders need not stay on a GPU."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from worker.engine.models.base import Conditioning, FlowModel

_MOST_ON_DISK = 16 * 2**30
"""Bytes; of FLUX.1's encodings, 4 MiB each, four thousand."""
_MOST_IN_MEMORY = 2**30
_ENCODED = 64
"""Prompts whose encodings are on a device at once."""


class EncodingStore:
    """Encodings by key, on disk or in memory; the ones used longest ago make room. Not for several threads at once."""

    def __init__(self, most_bytes: int, directory: Path | None = None) -> None:
        self._most_bytes, self._directory = most_bytes, directory
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._rows: dict[str, Conditioning] = {}
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(directory.glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
                self._sizes[path.stem] = path.stat().st_size

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return sum(self._sizes.values())

    def get(self, key: str) -> Conditioning | None:
        """The encoding [1, …] of that key, on the CPU; None where it is not kept."""
        if key not in self._sizes:
            return None
        self._sizes.move_to_end(key)
        if self._directory is None:
            return self._rows[key]
        return Conditioning(**load_file(self._path(key)))

    def put(self, key: str, row: Conditioning) -> Conditioning:
        """Keep an encoding [1, …], and no more than `most_bytes` of them all; returns it as it is kept."""
        kept = Conditioning(row.pooled.cpu(), row.sequence.cpu())
        if self._directory is None:
            self._rows[key] = kept
        else:
            partial = self._path(key).with_suffix(".partial")
            save_file({"pooled": kept.pooled, "sequence": kept.sequence}, partial)
            partial.replace(self._path(key))
        self._sizes[key] = kept.pooled.nbytes + kept.sequence.nbytes
        self._sizes.move_to_end(key)
        total = self.bytes
        while total > self._most_bytes:
            oldest, size = self._sizes.popitem(last=False)
            total -= size
            self._rows.pop(oldest, None)
            if self._directory is not None:
                self._path(oldest).unlink(missing_ok=True)
        return kept

    def _path(self, key: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{key}.safetensors"


class Encodings:
    """A model's encoded prompts, the same bits as `FlowModel.encode` gives. Any thread may ask.

    moves: whether the encoders are on the model's device only while they encode, and else on the CPU.
    """

    def __init__(self, model: FlowModel, store: EncodingStore, moves: bool) -> None:
        self._model, self._store, self._moves = model, store, moves
        self._identity = model.encoding_identity()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, model: FlowModel, directory: Path) -> "Encodings":
        """Kept in `directory`, or in memory for a model on the CPU, whose encodings are small."""
        moves = model.device.type != "cpu"
        return cls(model, EncodingStore(_MOST_ON_DISK, directory) if moves else EncodingStore(_MOST_IN_MEMORY), moves)

    def encode(self, prompts: Sequence[str], ahead: Callable[[], Sequence[str]] = lambda: ()) -> Conditioning:
        """The prompts, a row each, on the model's device.

        Where the encoders have to be fetched for one of them, they encode those of `ahead` at the same time.
        """
        with self._lock:
            keys = [self._key(prompt) for prompt in prompts]
            found = {key: row for key in keys if (row := self._store.get(key)) is not None}
            missing = [prompt for key, prompt in zip(keys, prompts, strict=True) if key not in found]
            if missing:
                wanted = [*missing, *(ahead() if self._moves else ())]
                found |= {key: row for key, row in self._encode(wanted) if key in keys}
        rows = [found[key] for key in keys]
        device = self._model.device
        return Conditioning(
            torch.cat([row.pooled for row in rows]).to(device), torch.cat([row.sequence for row in rows]).to(device)
        )

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode what is not kept yet. Raises ValueError as `FlowModel.encode` does."""
        with self._lock:
            for _ in self._encode(prompts):
                pass

    def _encode(self, prompts: Sequence[str]) -> Iterator[tuple[str, Conditioning]]:
        """Encode, keep and give what is not kept yet."""
        new = {key: prompt for prompt in prompts if (key := self._key(prompt)) not in self._store}
        if not new:
            return
        if self._moves:
            self._model.place_encoders(self._model.device)
        try:
            items = list(new.items())
            for start in range(0, len(items), _ENCODED):
                part = items[start : start + _ENCODED]
                encoded = self._model.encode([prompt for _, prompt in part])
                for number, (key, _) in enumerate(part):
                    yield key, self._store.put(key, encoded.rows([number]))
        finally:
            if self._moves:
                self._model.place_encoders(torch.device("cpu"))

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._identity}\0{prompt}".encode()).hexdigest()
