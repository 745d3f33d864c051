"""What must be true of a model's files before a device is taken for it. Only the heads of weight files are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

Shape = tuple[int, ...]

INDEX = "model_index.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_NAMES = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call their weights."""
_MOST_SHOWN = 3


def weight_files(directory: Path, file: str | None = None) -> list[Path]:
    """The safetensors files that make up a part's weights: `file`, or the one, or the shards that an index names.

    ValueError names what is missing. Pickles are never read: to open one is to run what is in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is not there: expected a directory of weights")
    if file is not None:
        return [_present(directory / file, "the catalog's entry names it")]
    for name in _NAMES:
        if (index := directory / f"{name}.safetensors.index.json").is_file():
            shards = sorted(set(_mapping(_json(index), "weight_map", index).values()))
            return [_present(directory / str(shard), f"{index.name} names it") for shard in shards]
        if (single := directory / f"{name}.safetensors").is_file():
            return [single]
    expected = " or ".join(f"{name}.safetensors" for name in _NAMES)
    if pickles := sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES):
        raise ValueError(
            f"{directory} has only pickles, {_some(pickles)}, which are refused, for opening one runs what is in it: "
            f"convert them to {expected}"
        )
    raise ValueError(f"{directory} has no weights: expected {expected}, or shards with an index")


def read_shapes(directory: Path, file: str | None = None) -> dict[str, tuple[str, Shape]]:
    """The file and the shape of every tensor of a part; ValueError names a file that is missing or damaged."""
    found: dict[str, tuple[str, Shape]] = {}
    for path in weight_files(directory, file):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    found[name] = path.name, tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}): fetch it again") from error
    return found


def check_tensors(directory: Path, expected: Mapping[str, Shape], file: str | None = None) -> None:
    """Raise ValueError where the weights in `directory` lack a tensor, have one too many, or one of another shape."""
    found = read_shapes(directory, file)
    wrong = [
        f"{name} in {found[name][0]} is {list(found[name][1])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name][1] != tuple(shape)
    ]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [f"{name} in {where}" for name, (where, _) in found.items() if name not in expected],
        "of another shape": wrong,
    }
    said = "; ".join(f"{len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names)
    if said:
        raise ValueError(f"the tensors in {directory} are not those of its configuration. {said}")


def check_pipeline(place: Path, pipeline: Any, parts: Mapping[str, Any], optional: frozenset[str]) -> list[str]:
    """Which of `parts` a diffusers pipeline's directory has; ValueError where it is another or not whole.

    pipeline, parts: the classes that it and its parts must be of. Of parts of diffusers every tensor's name and shape
    is compared with what the configuration makes; of the others the files alone, for their names vary with versions.
    """
    if not (index := place / INDEX).is_file():
        raise ValueError(f"{place} is no pipeline of diffusers: it has no {INDEX}")
    described = _json(index)
    if described.get("_class_name") != pipeline.__name__:
        raise ValueError(
            f"{index} is of the architecture {described.get('_class_name')!r}, expected {pipeline.__name__!r}: "
            "give its catalog entry the family that fits"
        )
    present = []
    for name, made in parts.items():
        given = described.get(name)
        of = given[-1] if isinstance(given, list) and given else None
        if of is None and name in optional:
            continue
        if of != made.__name__:
            raise ValueError(f"{index}: {name} is {of!r}, expected {made.__name__!r}")
        if hasattr(made, "load_config"):
            check_tensors(place / name, _made(made, place / name))
        else:
            read_shapes(place / name)
        present.append(name)
    return present


def check_loaded(directory: Path, info: Mapping[str, Any]) -> None:
    """Raise ValueError where transformers' loading of `directory` made up, left out or misfitted a tensor."""
    # Old files hold positions, which newer classes make themselves.
    unexpected = [name for name in info["unexpected_keys"] if not name.endswith("position_ids")]
    faults = {
        "missing": [str(name) for name in info["missing_keys"]],
        "unexpected": [str(name) for name in unexpected],
        "of another shape": [
            f"{name} is {list(found)}, expected {list(made)}" for name, found, made in info["mismatched_keys"]
        ],
    }
    said = "; ".join(f"{len(names)} {fault}: {_some(sorted(names))}" for fault, names in faults.items() if names)
    if said:
        raise ValueError(f"the tensors in {directory} are not those of its configuration. {said}")


def _made(part: Any, directory: Path) -> dict[str, Shape]:
    """The names and shapes that the configuration in `directory` makes, on no device."""
    config = _json(_present(directory / "config.json", "a part needs its configuration"))
    if config.get("_class_name") != part.__name__:
        raise ValueError(
            f"{directory / 'config.json'} is of the architecture {config.get('_class_name')!r}, "
            f"expected {part.__name__!r}"
        )
    try:
        with torch.device("meta"):
            model = part.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{directory / 'config.json'} makes no {part.__name__}: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be an object")
    return content


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    if not isinstance(content.get(key), dict) or not content[key]:
        raise ValueError(f"{path} has no `{key}`")
    return dict(content[key])


def _present(path: Path, why: str) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is not there, but {why}: fetch the model again")
    return path


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more
