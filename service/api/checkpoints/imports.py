"""Import LoRA files. Tensor names, data types and ranks are checked against the model; no code is executed.

Files have the format of diffusers, safetensors with `transformer.<layer>.lora_A.weight` and `…lora_B.weight`, or of
kohya's sd-scripts (`kohya.py`). Files with several ranks or scales and kohya's are converted to diffusers' format with
one rank and α. The worker that loads the model checks whether the shapes fit the layers.
"""

import hashlib
import json
import math
import re
import sys
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from sqlalchemy.orm import Session

from service.api.checkpoints import kohya
from service.api.checkpoints.lora_file import (
    DTYPES,
    METADATA,
    Content,
    LoraLayer,
    TensorFile,
    diffusers_content,
)
from service.api.checkpoints.safetensors_checks import MAX_TENSORS, check_finite, check_header
from service.api.checkpoints.schemas import MIN_ALPHA, ImportQuery
from service.api.idempotency import IdempotentRequest
from service.auth.principal import Principal
from service.contracts.attempt_files import MANIFEST_FILE, CheckpointFile, CheckpointManifest
from service.contracts.catalog import Catalog, ModelEntry
from service.db import deletion
from service.db.artifacts import ArtifactStore
from service.db.base import new_id
from service.db.models import Checkpoint
from service.http.errors import Invalid, invalid
from service.jobs.validation import find_model, unknown

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file name that diffusers' `load_lora_weights` looks for."""
_TENSOR = re.compile(r"transformer\.(?P<layer>[A-Za-z0-9_.]{1,200})\.(?:lora_(?P<half>[AB])\.weight|alpha)")
_KOHYA_TENSOR = re.compile(rf"{kohya.PREFIX}(?P<module>\w{{1,200}})\.(?:lora_(?:down|up)\.weight|alpha)", re.ASCII)
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")
_OVERRIDE = "`lora_alpha` in the query replaces it"
_MAX_RANK = 1024
_MAX_FLOAT = sys.float_info.max
_MAX_NAMES = 3


class Adapter(NamedTuple):
    """The rank and α of all layers, and the converted file; None if the file itself has this rank and α."""

    rank: int
    alpha: float
    converted: Content | None


def store(
    session: Session,
    artifacts: ArtifactStore,
    catalog: Catalog,
    query: ImportQuery,
    file: Path,
    sha256: str,
    principal: Principal,
    idempotency: IdempotentRequest,
) -> uuid.UUID:
    """Check an uploaded file, store it as a checkpoint, and return the checkpoint's id.

    For a repeated request, returns the id of the existing checkpoint. Raises Invalid, IdempotencyMismatch,
    IdempotencyInProgress.
    """
    id = new_id()
    model = find_model(catalog, query.model)
    if model is None:
        raise Invalid(list(unknown(catalog.model, query.model, ("query", "model"))))
    adapter = read_adapter(file, model, query.lora_alpha)
    weights, weights_sha256 = file, sha256
    if adapter.converted is not None:
        weights = file.with_name("converted.safetensors")
        with weights.open("wb") as output:
            output.writelines(adapter.converted.blocks)
        with weights.open("rb") as written:
            weights_sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    entry = CheckpointFile(name=WEIGHTS, sha256=weights_sha256, size=weights.stat().st_size)
    manifest = CheckpointManifest(
        model=model.name,
        architecture=None,
        kind="lora",
        step=0,
        lora_rank=adapter.rank,
        lora_alpha=adapter.alpha,
        spec=None,
        files=(entry,),
    )
    key = f"checkpoints/{id}"
    artifacts.put_file(weights, f"{key}/{WEIGHTS}", weights_sha256)
    manifest_file = file.with_name(MANIFEST_FILE)
    manifest_file.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    artifacts.put_file(manifest_file, f"{key}/{MANIFEST_FILE}")
    if (earlier := idempotency.with_body(sha256).claim(session, id)) is not None:
        deletion.discard(session, [key])
        session.commit()
        return earlier
    row = Checkpoint(
        id=id,
        run_id=None,
        name=query.name,
        attempt=0,
        step=0,
        kind="lora",
        model=model.name,
        architecture=None,
        manifest=manifest.model_dump(mode="json"),
        key=key,
        size=entry.size,
        created_by=principal.id,
    )
    session.add(row)
    session.commit()
    return id


def read_adapter(file: Path, model: ModelEntry, lora_alpha: float | None = None) -> Adapter:
    """Read a LoRA file for the transformer of `model`. `lora_alpha` replaces the α that the file states.

    Raises Invalid, listing the unsupported tensors or layers, if the file is not a LoRA for this model.
    """
    try:
        check_header(file)
        tensors = TensorFile(file)
        check_finite(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise _invalid(f"Invalid safetensors file: {str(error)[:200]}") from error
    if not 0 < len(tensors.shapes) <= MAX_TENSORS:
        raise _invalid(f"The file has {len(tensors.shapes)} tensors; expected 1 to {MAX_TENSORS}")
    types = [name for name, type in tensors.types.items() if type not in DTYPES and not name.endswith(".alpha")]
    if types:
        raise _invalid(f"Unsupported data type of {_some(types)}; supported types: {', '.join(sorted(DTYPES))}")
    is_kohya = any(name.startswith(kohya.PREFIX) for name in tensors.shapes)
    layers = _kohya_layers(tensors, model) if is_kohya else read_layers(tensors)
    if unsupported := [layer for layer in layers if not layer.endswith(model.lora_targets)]:
        targets = ", ".join(model.lora_targets)
        raise _invalid(f"Unsupported layers {_some(unsupported)}; {model.name!r} supports a LoRA on layers {targets}")
    ranks = {layer.rank for layer in layers.values()}
    if not ranks or not (min(ranks) >= 1 and max(ranks) <= _MAX_RANK):
        raise _invalid(f"The layers have ranks {sorted(ranks)[:8]}; allowed: 1 to {_MAX_RANK}")
    settings: dict[str, Any] = {} if is_kohya or lora_alpha is not None else _settings(tensors.metadata)
    stated = {name: lora_alpha or _stated_alpha(settings, name, layer) for name, layer in layers.items()}
    scales = {name: (stated[name] or layer.rank) / layer.rank for name, layer in layers.items()}
    rank, scale = max(ranks), Counter(scales.values()).most_common(1)[0][0]
    exact = (stated[name] for name, layer in layers.items() if layer.rank == rank and scales[name] == scale)
    alpha = next(exact, None) or scale * rank
    one = len(ranks) == 1 and len(set(scales.values())) == 1 and not is_kohya
    if one and all(layer.alpha is None for layer in layers.values()) and _plain_alpha(tensors.metadata, rank) == alpha:
        return Adapter(rank, alpha, None)
    return Adapter(rank, alpha, diffusers_content(layers, scales, rank, alpha))


def read_layers(tensors: TensorFile) -> dict[str, LoraLayer]:
    """Return the layers of a file in diffusers format. Raises Invalid if a tensor does not belong to a LoRA."""
    layers: dict[str, dict[str, str]] = {}
    unknown_names = []
    for name in tensors.shapes:
        if match := _TENSOR.fullmatch(name):
            layers.setdefault(match["layer"], {})[match["half"] or "alpha"] = name
        else:
            unknown_names.append(name)
    if unknown_names:
        pattern = "transformer.<layer>.lora_A.weight or transformer.<layer>.lora_B.weight"
        raise _invalid(f"Unknown tensors {_some(unknown_names)}; names must be {pattern}")
    _check_halves({layer: (names.get("A", ""), names.get("B", "")) for layer, names in layers.items()}, tensors)
    return {layer: tensors.layer(names["A"], names["B"], names.get("alpha")) for layer, names in layers.items()}


def _kohya_layers(tensors: TensorFile, model: ModelEntry) -> dict[str, LoraLayer]:
    modules: dict[str, kohya.Module] = {}
    unknown_names = []
    for name in tensors.shapes:
        match = _KOHYA_TENSOR.fullmatch(name)
        if match and (module := kohya.find(model.family, match["module"])):
            modules[module.name] = module
        else:
            unknown_names.append(name)
    if unknown_names:
        raise _invalid(f"Unknown tensors {_some(unknown_names)}; {model.name!r} is of the family {model.family!r}")
    halves = ("lora_down.weight", "lora_up.weight")
    _check_halves({name: tuple(f"{kohya.PREFIX}{name}.{half}" for half in halves) for name in modules}, tensors)
    try:
        return {name: layer for module in modules.values() for name, layer in kohya.layers_of(module, tensors)}
    except ValueError as error:
        raise _invalid(str(error)) from error


def _check_halves(layers: Mapping[str, tuple[str, ...]], tensors: TensorFile) -> None:
    """Raise Invalid unless each layer has two matrices, down [rank, columns] and up [rows, rank]."""
    shapes = {layer: [tensors.shapes.get(name, ()) for name in names] for layer, names in layers.items()}
    if incomplete := [layer for layer, halves in shapes.items() if [*map(len, halves)] != [2, 2]]:
        raise _invalid(f"Incomplete layers {_some(incomplete)}; each needs lora_A [rank, in] and lora_B [out, rank]")
    for layer, (down, up) in shapes.items():
        if down[0] != up[1]:
            raise _invalid(f"The matrices of the layer {layer} have ranks {[down[0], up[1]]}; they must have one rank")


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the PEFT configuration in a file's metadata. Raises Invalid if it is not a JSON object."""
    try:
        config = json.loads(metadata.get(METADATA, "{}"))
        settings = {key.removeprefix("transformer."): value for key, value in config.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _invalid(f"The metadata {METADATA} must be a JSON object: {str(error)[:100]}; {_OVERRIDE}") from error
    if settings.get("use_dora"):
        raise _invalid("The file is a DoRA (`use_dora`), which is not supported")
    return settings


def _stated_alpha(settings: Mapping[str, Any], name: str, layer: LoraLayer) -> float | None:
    """Return α of a layer such that its scale is α/rank, or None if the file states no α.

    Raises Invalid unless the statements of the file are valid and agree with each other and with the layer's rank.
    """
    rank = _of_layer(settings, "rank_pattern", "r", name)
    if rank not in (None, layer.rank):
        raise _invalid(f"The metadata state rank {rank!r} for the layer {name}, whose tensors have rank {layer.rank}")
    alpha = _of_layer(settings, "alpha_pattern", "lora_alpha", name)
    if None not in (alpha, layer.alpha) and alpha != layer.alpha:
        raise _invalid(f"The file states two values of α for the layer {name}: {alpha!r} and {layer.alpha!r}")
    alpha = layer.alpha if alpha is None else alpha
    root = bool(settings.get("use_rslora"))  # a scale of α/√rank instead of α/rank
    if alpha is None:
        return layer.rank * math.sqrt(layer.rank) if root else None
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    value = float(alpha) * (math.sqrt(layer.rank) if root else 1) if number and abs(alpha) < _MAX_FLOAT else math.nan
    if not MIN_ALPHA <= value < math.inf:
        shown = repr(alpha)[:50]
        raise _invalid(
            f"The file states α {shown} for the layer {name}; α must be a finite number above 0, at least "
            f"{MIN_ALPHA:g}; {_OVERRIDE}"
        )
    return value


def _of_layer(settings: Mapping[str, Any], patterns: str, default: str, name: str) -> Any:
    """Return the value of the first pattern for a layer, otherwise the default. A pattern is the end of a layer's name.

    Raises Invalid for other regular expressions, which PEFT supports, because they are not evaluated.
    """
    by_pattern = settings.get(patterns) or {}
    if not isinstance(by_pattern, dict) or not all(_PATTERN.fullmatch(pattern) for pattern in by_pattern):
        raise _invalid(f"The metadata {patterns} must be an object with names of layers; {_OVERRIDE}")
    for pattern, value in by_pattern.items():
        if f".{name}".endswith(f".{pattern.removeprefix('^')}") and (pattern[0] != "^" or pattern[1:] == name):
            return value
    return settings.get(default)


def _plain_alpha(metadata: Mapping[str, str], rank: int) -> Any:
    """Return the α that diffusers uses for every layer, or None if it differs between layers or cannot be read."""
    try:
        settings = _settings(metadata)
    except Invalid:
        return None
    differs = any(settings.get(name) for name in ("use_rslora", "alpha_pattern", "rank_pattern"))
    return None if differs else settings.get("lora_alpha", rank)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(name[:120] for name in names[:_MAX_NAMES]) + more


def _invalid(msg: str) -> Invalid:
    return invalid(["body"], msg, "not_a_lora")
