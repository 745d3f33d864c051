"""Weights that are published as one file: where it lies, and the tensors in it."""

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
    """The file that `source.file` names, else the first of `names` that is there; on the hub, `names[-1]`.

    ValueError where there is none.
    """
    place, revision = locate(source)
    wanted = [source.file] if source.file else list(names)
    if source.hub:
        try:
            return Path(hf_hub_download(place, wanted[-1], revision=revision, token=access_token(source)))
        except OSError as error:  # what the hub's client raises, on disk and on the net alike
            raise ValueError(f"the hub's {place}/{wanted[-1]} cannot be had: {_first_line(error)}") from error
    for name in wanted:
        if (path := Path(place, name)).is_file():
            return path
    raise ValueError(f"there is no {' or '.join(wanted)} in {place}")


def find_optional(source: Source, name: str) -> Path | None:
    """The source's file of that name; None where it has none, or none is cached and the hub is not to be asked.

    ValueError where the hub could not be asked: whether it has the file decides how a reward is computed.
    """
    if not source.hub:
        path = Path(locate(source)[0], name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source.hub, name, revision=source.revision, token=access_token(source)))
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError by inheritance, though nobody has looked
        known = try_to_load_from_cache(source.hub, name, revision=source.revision)
        if is_offline_mode() or known is _CACHED_NO_EXIST:
            return None
        cause = _first_line(error.__cause__ or error)
        raise ValueError(f"the hub's {source.hub}/{name} could not be reached: {cause}") from error
    except EntryNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"the hub's {source.hub}/{name} cannot be asked for: {_first_line(error)}") from error


def read_tensors(path: Path, within: str | None = None) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or of a torch pickle, on the CPU; those under `within` where it is there.

    A pickle may hold tensors and nothing else, so that reading it runs no code of its author's. ValueError where it
    does, and where the file cannot be read.
    """
    try:
        held: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no file of tensors alone, or damaged: {_first_line(error)}") from error
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
