"""What a catalog points to: whether it is on this machine, and whether the variables it names are set."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from service.contracts.catalog import Catalog, RemoteServer, Source


@dataclass(frozen=True)
class Place:
    """What one entry points to. `missing`: it is not on this machine, or its variable is not set."""

    entry: str
    told: str
    missing: bool = False


def places(catalog: Catalog) -> Iterator[Place]:
    """Every directory, file, hub repository, server and variable that is named. Neither hub nor servers are asked."""
    for model in catalog.models:
        yield from _source(f"model {model.name}", model.source)
    for reward in catalog.rewards:
        for source in (reward.source, reward.tokenizer):
            yield from _source(f"reward {reward.name}", source)
        yield from _server(f"reward {reward.name}", reward)
    for one in catalog.prompt_sets:
        if one.path is not None:
            there = one.path.is_file()
            told = f"{one.path} {'is there' if there else 'is not on this machine'}"
            yield Place(f"prompt set {one.name}", told, missing=not there)
    for judge in catalog.judges:
        yield from _server(f"judge {judge.name}", judge)


def _source(entry: str, source: Source | None) -> Iterator[Place]:
    if source is None:
        return
    if source.directory is not None:
        there = source.directory.is_dir()
        told = f"{source.directory} {'is there' if there else 'is not on this machine'}"
        yield Place(entry, told, missing=not there)
    elif source.hub is not None:
        yield Place(entry, f"the hub's {source.hub}, {source.revision or 'newest revision'}; not asked")
    else:
        yield Place(entry, f"comes with the worker ({source.bundled})")
    yield from _variable(entry, source.token_env)


def _server(entry: str, asked: RemoteServer) -> Iterator[Place]:
    if asked.url is not None:
        yield Place(entry, f"{asked.url}; not asked")
    yield from _variable(entry, asked.token_env)


def _variable(entry: str, name: str | None) -> Iterator[Place]:
    if name is not None:
        there = bool(os.environ.get(name))
        yield Place(entry, f"{name} is {'set' if there else 'not set'}", missing=not there)
