"""Which prompts of a file are held out: decided by each prompt and a seed, never by where it stands."""

import hashlib
import heapq
import json
from collections.abc import Iterator
from pathlib import Path

from service.http.errors import invalid


def split(source: Path, train: Path, heldout: Path, wanted: float, seed: int) -> tuple[int, int]:
    """Write each line of a set's file to `train` or to `heldout`; how many each got. Raises Invalid.

    `wanted` below 1 is a share: each prompt has its side whatever else is in the file, so that a longer file holds out
    the same prompts and more. From 1 on it is how many: those of the least hashes.
    """
    below = _share(wanted) if wanted < 1 else _least(source, int(wanted), seed)
    counts = [0, 0]
    with source.open("rb") as lines, train.open("wb") as one, heldout.open("wb") as other:
        for line in lines:
            held = place(_prompt(line), seed) < below
            (other if held else one).write(line)
            counts[held] += 1
    if not all(counts):
        msg = f"{wanted:g} of {sum(counts)} prompts held out leaves {counts[0]} to train on and {counts[1]} held out"
        raise invalid(["query", "heldout"], f"{msg}; both need one at least", "empty_part")
    return counts[0], counts[1]


def place(prompt: str, seed: int) -> int:
    """Where a prompt lies among 2^64 places, evenly and independently of others."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{prompt}".encode(), digest_size=8).digest(), "big")


def _share(wanted: float) -> int:
    return int(wanted * 2**64)


def _least(source: Path, count: int, seed: int) -> int:
    """The bound below which lie the `count` least places; all where there are not more."""
    least = heapq.nsmallest(count + 1, (place(prompt, seed) for prompt in _prompts(source)))
    return least[-1] if len(least) > count else 2**64


def _prompts(source: Path) -> Iterator[str]:
    with source.open("rb") as lines:
        for line in lines:
            yield _prompt(line)


def _prompt(line: bytes) -> str:
    prompt: str = json.loads(line)["prompt"]
    return prompt
