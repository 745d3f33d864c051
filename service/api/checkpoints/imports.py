"""Import LoRA files. Tensor names, data types and ranks are checked against the model; no code is executed.

Files have the format of diffusers: safetensors with `transformer.<layer>.lora_A.weight` and `…lora_B.weight`. The
worker that loads the model checks whether the shapes fit the layers.
"""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from sqlalchemy.orm import Session

from service.api.checkpoints.safetensors_checks import MAX_TENSORS, check_finite, check_header
from service.api.checkpoints.schemas import ImportQuery
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
_TENSOR = re.compile(r"transformer\.(?P<layer>[A-Za-z0-9_.]{1,200})\.lora_(?P<half>[AB])\.weight")
_TYPES = frozenset({"F32", "F16", "BF16"})
_MAX_NAMES = 3


class Adapter(NamedTuple):
    """The rank of a LoRA file, and α if the file specifies it."""

    rank: int
    alpha: float | None


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
    adapter = read_adapter(file, model)
    alpha = query.lora_alpha if query.lora_alpha is not None else adapter.alpha
    entry = CheckpointFile(name=WEIGHTS, sha256=sha256, size=file.stat().st_size)
    manifest = CheckpointManifest(
        model=model.name,
        architecture=None,
        kind="lora",
        step=0,
        lora_rank=adapter.rank,
        lora_alpha=float(adapter.rank) if alpha is None else alpha,
        spec=None,
        files=(entry,),
    )
    key = f"checkpoints/{id}"
    artifacts.put_file(file, f"{key}/{WEIGHTS}", sha256)
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


def read_adapter(file: Path, model: ModelEntry) -> Adapter:
    """Read the properties of a LoRA file for the transformer of `model`.

    Raises Invalid, listing the unsupported tensors or layers, if the file is not a LoRA for this model.
    """
    try:
        check_header(file)
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: str(part.get_dtype()) for name, part in slices.items()}
            metadata = tensors.metadata() or {}
        check_finite(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise _invalid(f"Invalid safetensors file: {str(error)[:200]}") from error
    if not 0 < len(shapes) <= MAX_TENSORS:
        raise _invalid(f"The file has {len(shapes)} tensors; expected 1 to {MAX_TENSORS}")
    if wrong := [name for name, type_ in types.items() if type_ not in _TYPES]:
        raise _invalid(f"Unsupported data type of {_some(wrong)}; supported types: {', '.join(sorted(_TYPES))}")
    return Adapter(_rank(shapes, model), _alpha(metadata))


def _rank(shapes: Mapping[str, tuple[int, ...]], model: ModelEntry) -> int:
    """Return the rank, which must be the same for all layers. Raises Invalid if the tensors are not a valid LoRA."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    unknown_names = []
    for name, shape in shapes.items():
        if match := _TENSOR.fullmatch(name):
            layers.setdefault(match["layer"], {})[match["half"]] = shape
        else:
            unknown_names.append(name)
    if unknown_names:
        pattern = "transformer.<layer>.lora_A.weight or transformer.<layer>.lora_B.weight"
        raise _invalid(f"Unknown tensors {_some(unknown_names)}; names must be {pattern}")
    if incomplete := [name for name, halves in layers.items() if sorted(map(len, halves.values())) != [2, 2]]:
        raise _invalid(f"Incomplete layers {_some(incomplete)}; each needs lora_A [rank, in] and lora_B [out, rank]")
    if unsupported := [layer for layer in layers if not layer.endswith(model.lora_targets)]:
        targets = ", ".join(model.lora_targets)
        raise _invalid(f"Unsupported layers {_some(unsupported)}; {model.name!r} supports a LoRA on layers {targets}")
    ranks = {rank for halves in layers.values() for rank in (halves["A"][0], halves["B"][1])}
    if len(ranks) != 1 or not 1 <= min(ranks) <= 1024:
        raise _invalid(f"The layers have ranks {sorted(ranks)[:8]}; they must have one rank, from 1 to 1024")
    return ranks.pop()


def _alpha(metadata: Mapping[str, str]) -> float | None:
    """Return α from diffusers' adapter metadata, or None if it is missing or invalid."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        alpha = config.get("transformer.lora_alpha", config.get("lora_alpha"))
        return float(alpha) if alpha is not None and 0 < float(alpha) <= 4096 else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(name[:120] for name in names[:_MAX_NAMES]) + more


def _invalid(msg: str) -> Invalid:
    return invalid(["body"], msg, "not_a_lora")
