"""Check whether the local files and environment variables that catalog entries refer to exist."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from service.contracts.catalog import Catalog, RemoteServer, Source


class SourceCheck(NamedTuple):
    """The result of checking one source of a catalog entry.

    `missing` is true if a file or directory does not exist or an environment variable is not set.
    """

    entry: str
    detail: str
    missing: bool = False


def check_sources(catalog: Catalog) -> Iterator[SourceCheck]:
    """Yield a check for each directory, file, hub repository, server and environment variable in the catalog.

    The hub and the servers are not contacted.
    """
    for model in catalog.models:
        yield from _source(f"model {model.name}", model.source)
    for reward in catalog.rewards:
        for source in (reward.source, reward.tokenizer):
            yield from _source(f"reward {reward.name}", source)
        yield from _server(f"reward {reward.name}", reward)
    for prompts in catalog.prompt_sets:
        if prompts.path is not None:
            yield _exists(f"prompt set {prompts.name}", str(prompts.path), prompts.path.is_file())
    for judge in catalog.judges:
        yield from _server(f"judge {judge.name}", judge)


def _source(entry: str, source: Source | None) -> Iterator[SourceCheck]:
    if source is None:
        return
    if source.directory is not None:
        yield _exists(entry, str(source.directory), source.directory.is_dir())
    elif source.hub is not None:
        yield SourceCheck(entry, f"hub repository {source.hub}, {source.revision or 'newest revision'} (not checked)")
    else:
        yield SourceCheck(entry, f"included in the worker ({source.bundled})")
    yield from _variable(entry, source.token_env)


def _exists(entry: str, path: str, exists: bool) -> SourceCheck:
    return SourceCheck(entry, f"{path} {'exists' if exists else 'does not exist on this machine'}", missing=not exists)


def _server(entry: str, server: RemoteServer) -> Iterator[SourceCheck]:
    if server.url is not None:
        yield SourceCheck(entry, f"{server.url} (not checked)")
    yield from _variable(entry, server.token_env)


def _variable(entry: str, name: str | None) -> Iterator[SourceCheck]:
    if name is not None:
        is_set = bool(os.environ.get(name))
        yield SourceCheck(entry, f"{name} is {'set' if is_set else 'not set'}", missing=not is_set)
