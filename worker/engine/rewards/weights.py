"""Weights published as one file: its location and its tensors."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from service.contracts.catalog import Source
from worker.engine.models.sources import access_token, locate


def find_file(source: Source, names: Sequence[str]) -> Path:
    """The file `source.file`, else the first of `names` that exists; on the hub, `names[-1]`.

    ValueError if there is none.
    """
    place, revision = locate(source)
    wanted = [source.file] if source.file else list(names)
    if source.hub:
        try:
            return Path(hf_hub_download(place, wanted[-1], revision=revision, token=access_token(source)))
        except OSError as error:  # the base class of disk and network errors of the hub's client
            raise ValueError(f"cannot download {place}/{wanted[-1]} from the hub: {_first_line(error)}") from error
    for name in wanted:
        if (path := Path(place, name)).is_file():
            return path
    raise ValueError(f"there is no {' or '.join(wanted)} in {place}")


def find_optional(source: Source, name: str) -> Path | None:
    """The source's file of that name; None if it has none, or if none is cached in offline mode.

    ValueError if the hub is unreachable: the computation of a reward depends on whether the file exists.
    """
    if not source.hub:
        path = Path(locate(source)[0], name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source.hub, name, revision=source.revision, token=access_token(source)))
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError even if the hub is down
        known = try_to_load_from_cache(source.hub, name, revision=source.revision)
        if is_offline_mode() or known is _CACHED_NO_EXIST:
            return None
        cause = _first_line(error.__cause__ or error)
        raise ValueError(f"the hub's {source.hub}/{name} could not be reached: {cause}") from error
    except EntryNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"the hub's {source.hub}/{name} cannot be downloaded: {_first_line(error)}") from error


def read_tensors(path: Path, within: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a torch pickle, on the CPU; those under the key `within`, if present.

    A pickle may contain only tensors, so that reading it does not run code. ValueError for other files.
    """
    try:
        held: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or contains more than tensors: {_first_line(error)}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__}, not tensors by name")
    if within and isinstance(held.get(within), dict):
        held = held[within]
    others = [f"{name} ({type(value).__name__})" for name, value in held.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} holds other things than tensors: {', '.join(others[:3])}")
    return dict(held)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
