"""The sources of a catalog's entries: whether local files exist, and whether environment variables are set."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from service.contracts.catalog import Catalog, RemoteServer, Source


class SourceCheck(NamedTuple):
    """A source of an entry; `missing`: a file that does not exist, or a variable that is not set."""

    entry: str
    detail: str
    missing: bool = False


def check_sources(catalog: Catalog) -> Iterator[SourceCheck]:
    """All directories, files, hub repositories, servers and variables. Hub and servers are not contacted."""
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
