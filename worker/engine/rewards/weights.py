"""Locating and reading weights that are published as a single file."""

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
    """Return the path of a source's weight file, after downloading it if necessary.

    The file is `source.file` if set. Otherwise it is the first of `names` that exists in the directory or, on the hub,
    `names[-1]`. Raises ValueError if the file does not exist or the download fails.
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
    raise ValueError(f"{' or '.join(wanted)} not found in {place}")


def find_optional(source: Source, name: str) -> Path | None:
    """Return the path of the source's file `name`, or None if the source has no such file.

    In offline mode, None also means that the file is not cached. Raises ValueError if the hub is unreachable, because
    the reward's values depend on whether the file exists.
    """
    if not source.hub:
        path = Path(locate(source)[0], name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source.hub, name, revision=source.revision, token=access_token(source)))
    except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError, also raised if the hub is down
        known = try_to_load_from_cache(source.hub, name, revision=source.revision)
        if is_offline_mode() or known is _CACHED_NO_EXIST:
            return None
        cause = _first_line(error.__cause__ or error)
        raise ValueError(f"cannot reach {source.hub}/{name} on the hub: {cause}") from error
    except EntryNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot download {source.hub}/{name} from the hub: {_first_line(error)}") from error


def read_tensors(path: Path, within: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a torch pickle onto the CPU.

    If the file has the key `within`, only the tensors under it are returned. A pickle must contain only tensors, so
    that reading it runs no code. Raises ValueError for other files.
    """
    try:
        held: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or contains more than tensors: {_first_line(error)}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} contains a {type(held).__name__} instead of named tensors")
    if within and isinstance(held.get(within), dict):
        held = held[within]
    others = [f"{name} ({type(value).__name__})" for name, value in held.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} contains objects other than tensors: {', '.join(others[:3])}")
    return dict(held)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
