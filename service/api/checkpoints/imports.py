"""Taking a LoRA file from outside: what is in it is looked at, never executed, and must fit the model by its names.

The format is diffusers': safetensors, `transformer.<layer>.lora_A.weight` and `…lora_B.weight`. Only names, types and
shapes are read here; whether the shapes fit the model's layers is known where the model is, when it is loaded.
"""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from sqlalchemy.orm import Session

from service.api.checkpoints.schemas import ImportQuery
from service.api.idempotency import IdempotentRequest
from service.auth.principal import Principal
from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.jobs import MANIFEST_FILE, CheckpointFile, CheckpointManifest
from service.db import retention
from service.db.artifacts import ArtifactStore, Stored
from service.db.base import new_id
from service.db.models import Checkpoint
from service.http.errors import Invalid, invalid
from service.jobs.validation import find_model, unknown

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The name that `load_lora_weights` of diffusers looks for."""
_TENSOR = re.compile(r"transformer\.(?P<layer>[A-Za-z0-9_.]{1,200})\.lora_(?P<half>[AB])\.weight")
_TYPES = frozenset({"F32", "F16", "BF16"})
_MOST_TENSORS = 100_000
_MOST_SHOWN = 3


class Adapter(NamedTuple):
    """What a LoRA file says of itself."""

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
    """Check a received file, store it as a checkpoint, and return its id. Raises Invalid."""
    id = new_id()
    model = find_model(catalog, query.model)
    if model is None:
        raise Invalid(list(unknown(catalog.model, query.model, ("query", "model"))))
    adapter = examine(file, model)
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
    _put(artifacts, file, manifest, Stored(key, sha256, entry.size))
    if (known := idempotency.with_body(sha256).claim(session, id)) is not None:
        retention.discard(session, [key])
        session.commit()
        return known
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


def examine(file: Path, model: ModelEntry) -> Adapter:
    """The rank, and α if it says so, of a LoRA for `model`'s transformer. Raises Invalid, naming what does not fit."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            about = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
            shapes = {name: tuple(one.get_shape()) for name, one in about.items()}
            types = {name: str(one.get_dtype()) for name, one in about.items()}
            metadata = tensors.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _refused(f"this is no safetensors file: {str(error)[:200]}") from error
    if not 0 < len(shapes) <= _MOST_TENSORS:
        raise _refused(f"it holds {len(shapes)} tensors; allowed are 1 to {_MOST_TENSORS}")
    if wrong := [name for name, type_ in types.items() if type_ not in _TYPES]:
        raise _refused(f"{_some(wrong)} must be of {', '.join(sorted(_TYPES))}")
    return Adapter(_rank(shapes, model), _alpha(metadata))


def _rank(shapes: Mapping[str, tuple[int, ...]], model: ModelEntry) -> int:
    """The one rank of all layers: a run trains one, and its checkpoint has one."""
    foreign = [name for name in shapes if not _TENSOR.fullmatch(name)]
    if foreign:
        raise _refused(f"{_some(foreign)} must be named transformer.<layer>.lora_A.weight or …lora_B.weight")
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := _TENSOR.fullmatch(name):
            layers.setdefault(match["layer"], {})[match["half"]] = shape
    broken = [name for name, halves in layers.items() if sorted(map(len, halves.values())) != [2, 2]]
    if broken:
        raise _refused(f"{_some(broken)} must have both lora_A [rank, in] and lora_B [out, rank]")
    strangers = [layer for layer in layers if not layer.endswith(model.lora_targets)]
    if strangers:
        targets = ", ".join(model.lora_targets)
        raise _refused(f"{_some(strangers)}: {model.name!r} takes a LoRA on layers ending in {targets}")
    ranks = {rank for halves in layers.values() for rank in (halves["A"][0], halves["B"][1])}
    if len(ranks) != 1 or not 1 <= min(ranks) <= 1024:
        raise _refused(f"its layers have ranks {sorted(ranks)[:8]}; allowed is one rank for all, from 1 to 1024")
    return ranks.pop()


def _alpha(metadata: Mapping[str, str]) -> float | None:
    """α of diffusers' adapter metadata, where the file has any."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        alpha = config.get("transformer.lora_alpha", config.get("lora_alpha"))
        return float(alpha) if alpha is not None and 0 < float(alpha) <= 4096 else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _put(artifacts: ArtifactStore, file: Path, manifest: CheckpointManifest, stored: Stored) -> None:
    artifacts.put_file(file, f"{stored.key}/{WEIGHTS}", stored.sha256)
    described = file.with_name(MANIFEST_FILE)
    described.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    artifacts.put_file(described, f"{stored.key}/{MANIFEST_FILE}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(name[:120] for name in names[:_MOST_SHOWN]) + more


def _refused(msg: str) -> Invalid:
    return invalid(["body"], msg, "not_a_lora")
