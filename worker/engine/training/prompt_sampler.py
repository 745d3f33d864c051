"""The prompts of a run: loading prompt sets, and the order in which a run samples the prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.contracts.catalog import Catalog, PromptSetEntry
from service.contracts.prompts import read_prompts
from service.contracts.runs import PromptSource
from worker.engine.grpo.noise import permutation
from worker.shapes.bench import caption_sampling as bench
from worker.shapes.caption_sampling import heldout_prompts, train_prompts

_AHEAD = 256
"""Number of prompts to encode in advance each time the encoders are moved to the device."""


def load_prompt_set(entry: PromptSetEntry) -> tuple[str, ...]:
    """Return the distinct prompts of a catalog entry.

    Raises ValueError if its file is missing, has no prompts, contains a NUL character or is not UTF-8.
    """
    if entry.kind == "shapes":
        return train_prompts() if entry.split == "train" else heldout_prompts()
    if entry.kind == "shapes_bench":
        return bench.train_prompts() if entry.split == "train" else bench.heldout_prompts()
    path = entry.path or Path()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if any("\x00" in line for line in lines):
            raise ValueError("it contains a NUL character, which the database cannot store")
    except (OSError, ValueError) as error:
        raise ValueError(f"prompt set {entry.name!r}: cannot read {path}: {error}") from error
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise ValueError(f"prompt set {entry.name!r}: {path} has no prompts")
    return prompts


def load_named(name: str, catalog: Catalog, files: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the prompts of a set, from `files` if it contains the name, otherwise from the catalog.

    Raises ValueError if the set cannot be read or has no prompts.
    """
    if (file := files.get(name)) is None:
        return load_prompt_set(catalog.prompt_set(name))
    prompts = tuple(read_prompts(file))
    if not prompts:
        raise ValueError(f"prompt set {name!r}: {file} has no prompts")
    return prompts


def load_prompts(source: PromptSource, catalog: Catalog, files: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the distinct prompts that a spec refers to or lists.

    files: the files of uploaded prompt sets by name.
    """
    if source.items is not None:
        return tuple(dict.fromkeys(source.items))
    return load_named(str(source.set), catalog, files)


def fingerprint(prompts: Sequence[str]) -> str:
    """Return the SHA-256 hash of the prompts, in order."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


class PromptSampler:
    """Samples prompts in endless epochs, each in a random order that depends only on the seed and the epoch."""

    def __init__(self, prompts: tuple[str, ...], seed: int) -> None:
        self._prompts, self._seed = prompts, seed
        self._orders: dict[int, list[int]] = {}
        self.fingerprint = fingerprint(prompts)

    def sample(self, step: int, count: int) -> list[str]:
        """Return the `count` prompts of training step `step`, counted from 0."""
        return [self._prompt(number) for number in range(step * count, (step + 1) * count)]

    def upcoming(self, step: int, count: int, shard: range, max_steps: int) -> list[str]:
        """Return the prompts at the indices `shard` in each of the next steps, to encode them in advance.

        Includes as many steps after `step` as are needed for at least `_AHEAD` prompts, up to `max_steps`.
        """
        steps = range(step + 1, min(max_steps, step + 1 + -(-_AHEAD // len(shard))))
        return [prompt for later in steps for prompt in self.sample(later, count)[shard.start : shard.stop]]

    def _prompt(self, number: int) -> str:
        epoch, offset = divmod(number, len(self._prompts))
        if epoch not in self._orders:
            self._orders = {known: order for known, order in self._orders.items() if known >= epoch - 1}
            self._orders[epoch] = permutation(len(self._prompts), self._seed, "prompts", epoch)
        return self._prompts[self._orders[epoch][offset]]
