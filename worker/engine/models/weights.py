"""Checks of model files before a device is used. Only the headers of weight files are read."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

Shape = tuple[int, ...]

INDEX = "model_index.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_NAMES = ("diffusion_pytorch_model", "model")
"""Base names of weight files in diffusers and transformers."""
_MAX_SHOWN = 3


def weight_files(directory: Path, file: str | None = None) -> list[Path]:
    """Return the safetensors files of a component: `file`, the single weight file, or the shards listed in an index.

    Pickles are never opened, because that could run code. Raises ValueError if a file is missing.
    """
    if not directory.is_dir():
        raise ValueError(f"directory of weights {directory} not found")
    if file is not None:
        return [_present(directory / file, "the catalog entry refers to it")]
    for name in _NAMES:
        if (index := directory / f"{name}.safetensors.index.json").is_file():
            shards = sorted(set(_mapping(_json(index), "weight_map", index).values()))
            return [_present(directory / str(shard), f"{index.name} refers to it") for shard in shards]
        if (single := directory / f"{name}.safetensors").is_file():
            return [single]
    expected = " or ".join(f"{name}.safetensors" for name in _NAMES)
    if pickles := sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES):
        raise ValueError(
            f"{directory} contains only pickles ({some(pickles)}), which are not loaded because they may execute code; "
            f"convert them to {expected}"
        )
    raise ValueError(f"{directory} has no weights; expected {expected}, or shards with an index")


def read_shapes(directory: Path, file: str | None = None) -> dict[str, Shape]:
    """Return the shapes of a component's tensors by name. Raises ValueError if a file is missing or damaged."""
    found: dict[str, Shape] = {}
    for path in weight_files(directory, file):
        try:
            with safe_open(path, framework="pt") as tensors:
                found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is incomplete or damaged ({error}); download it again") from error
    return found


def check_faults(subject: str, faults: Mapping[str, Collection[str]]) -> None:
    """Raise ValueError if any kind of fault affects a tensor.

    faults: tensor names by kind of fault. The message states the number and the first names for each kind.
    """
    text = "; ".join(f"{len(names)} {fault}: {some(names)}" for fault, names in faults.items() if names)
    if text:
        raise ValueError(f"the tensors of {subject} do not fit its architecture: {text}")


def check_shapes(subject: str, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Raise ValueError if tensors are missing, unexpected, or have the wrong shape."""
    common = sorted(found.keys() & expected.keys())
    wrong = [name for name in common if tuple(found[name]) != tuple(expected[name])]
    check_faults(
        subject,
        {
            "missing": sorted(expected.keys() - found.keys()),
            "unexpected": sorted(found.keys() - expected.keys()),
            "of another shape": [f"{name} is {list(found[name])}, expected {list(expected[name])}" for name in wrong],
        },
    )


def check_pipeline(directory: Path, pipeline: Any, parts: Mapping[str, Any], optional: frozenset[str]) -> list[str]:
    """Check the directory of a diffusers pipeline and return the names of the `parts` it contains.

    pipeline, parts: the required pipeline and component classes. For diffusers components, the names and shapes of all
    tensors are compared with the configuration. For other components only the files are checked, because tensor names
    vary between versions. Raises ValueError if the pipeline has another class or is incomplete.
    """
    if not (index := directory / INDEX).is_file():
        raise ValueError(f"{directory} is not a diffusers pipeline: it has no {INDEX}")
    described = _json(index)
    if described.get("_class_name") != pipeline.__name__:
        raise ValueError(
            f"{index} has the architecture {described.get('_class_name')!r}, expected {pipeline.__name__!r}; "
            "correct the family of the catalog entry"
        )
    present = []
    for name, required in parts.items():
        given = described.get(name)
        actual = given[-1] if isinstance(given, list) and given else None
        if actual is None and name in optional:
            continue
        if actual != required.__name__:
            raise ValueError(f"{index}: {name} is {actual!r}, expected {required.__name__!r}")
        if hasattr(required, "load_config"):
            check_shapes(str(directory / name), read_shapes(directory / name), _configured(required, directory / name))
        else:
            read_shapes(directory / name)
        present.append(name)
    return present


def check_loaded(subject: str, info: Mapping[str, Any]) -> None:
    """Raise ValueError if the loading report of transformers lists missing, unexpected or mismatched tensors."""
    faults = {
        "missing": sorted(info["missing_keys"]),
        # Old files contain position ids, which newer classes compute.
        "unexpected": sorted(name for name in info["unexpected_keys"] if not name.endswith("position_ids")),
        "of another shape": [
            f"{name} is {list(found)}, expected {list(made)}" for name, found, made in sorted(info["mismatched_keys"])
        ],
    }
    check_faults(subject, faults)


def _configured(part: Any, directory: Path) -> dict[str, Shape]:
    """Return the tensor shapes, by name, that the configuration in `directory` requires. No weights are allocated."""
    config = _json(_present(directory / "config.json", "every part needs a configuration"))
    if config.get("_class_name") != part.__name__:
        raise ValueError(
            f"{directory / 'config.json'} has the architecture {config.get('_class_name')!r}, "
            f"expected {part.__name__!r}"
        )
    try:
        with torch.device("meta"):
            model = part.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{directory / 'config.json'} does not describe a {part.__name__}: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object")
    return content


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    if not isinstance(content.get(key), dict) or not content[key]:
        raise ValueError(f"{path} has no `{key}`")
    return dict(content[key])


def _present(path: Path, why: str) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} not found, but {why}; download the model again")
    return path


def some(names: Collection[str]) -> str:
    """Return the first names as text, followed by the number of remaining names."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(list(names)[:_MAX_SHOWN]) + more
