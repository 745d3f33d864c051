"""A cache of encoded prompts. Prompts are encoded once, in advance, so that the encoders need not stay on the GPU."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from worker.engine.models.base import Conditioning, FlowModel

_MAX_ON_DISK = 16 * 2**30
"""Maximum size of the cache in bytes: about four thousand FLUX.1 encodings of 4 MiB each."""
_ENCODED = 64
"""Prompts encoded per batch. The encodings of one batch are on the device at the same time."""


class EncodingStore:
    """A least-recently-used cache of encodings, stored as files in `directory`. Not thread-safe."""

    def __init__(self, max_bytes: int, directory: Path) -> None:
        self._max_bytes, self._directory = max_bytes, directory
        self._sizes: OrderedDict[str, int] = OrderedDict()
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
            self._sizes[path.stem] = path.stat().st_size

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    @property
    def bytes(self) -> int:
        """Size of the cached encodings in bytes."""
        return sum(self._sizes.values())

    def get(self, key: str) -> Conditioning | None:
        """Return the encoding [1, …] cached under `key`, on the CPU, or None if it is not cached."""
        if key not in self._sizes:
            return None
        self._sizes.move_to_end(key)
        return Conditioning(**load_file(self._path(key)))

    def put(self, key: str, row: Conditioning) -> Conditioning:
        """Store an encoding [1, …] and return it, on the CPU.

        If the cache exceeds `max_bytes`, evict the least recently used encodings.
        """
        stored = Conditioning(row.pooled.cpu(), row.sequence.cpu())
        partial = self._path(key).with_suffix(".partial")
        save_file({"pooled": stored.pooled, "sequence": stored.sequence}, partial)
        partial.replace(self._path(key))
        self._sizes[key] = stored.pooled.nbytes + stored.sequence.nbytes
        self._sizes.move_to_end(key)
        total = self.bytes
        while total > self._max_bytes:
            oldest, size = self._sizes.popitem(last=False)
            total -= size
            self._path(oldest).unlink(missing_ok=True)
        return stored

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.safetensors"


class Encodings:
    """Encodes the prompts of one model with a cache; the results are identical to `FlowModel.encode`. Thread-safe.

    moves: whether to keep the encoders on the CPU and move them to the model's device only while they encode.
    """

    def __init__(self, model: FlowModel, store: EncodingStore, moves: bool) -> None:
        self._model, self._store, self._moves = model, store, moves
        self._identity = model.encoding_identity()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, model: FlowModel, directory: Path) -> "Encodings":
        """Create encodings for `model`, cached in `directory`. The encoders of a CPU model are never moved."""
        return cls(model, EncodingStore(_MAX_ON_DISK, directory), moves=model.device.type != "cpu")

    def encode(self, prompts: Sequence[str], ahead: Callable[[], Sequence[str]] = lambda: ()) -> Conditioning:
        """Return the encoded prompts on the model's device, one row per prompt.

        If the encoders have to be moved to the device, they also encode the prompts returned by `ahead`.
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
        """Encode and cache prompts. Raises ValueError if `FlowModel.encode` rejects a prompt."""
        with self._lock:
            for _ in self._encode(prompts):
                pass

    def _encode(self, prompts: Sequence[str]) -> Iterator[tuple[str, Conditioning]]:
        """Encode the prompts that are not cached, store the encodings, and yield each with its key."""
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
