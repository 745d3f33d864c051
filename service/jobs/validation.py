"""Validate requests: names in the catalog and the database, checkpoints, image sizes and cost limits."""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.plan import Plan, make_plan
from service.contracts.runs import RunSpec
from service.contracts.validation_errors import did_you_mean
from service.core.settings import Settings
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.models import Checkpoint, PromptSet
from service.db.session import Database
from service.http.errors import FieldError, Invalid
from service.jobs import capacity

Loc = tuple[str | int, ...]
_MAX_LISTED = 20
"""Maximum number of uploaded prompt sets listed in an error message."""


def uploaded_sets(session: Session, catalog: Catalog, spec: RunSpec) -> dict[str, PromptSet]:
    """Return the uploaded prompt sets used by a spec, by name, and lock them against deletion until the commit."""
    names = {name for name in (spec.prompts.set, spec.heldout.prompts) if name is not None}
    names -= {entry.name for entry in catalog.prompt_sets}
    query = select(PromptSet).where(PromptSet.name.in_(names), PromptSet.deleted_at.is_(None)).order_by(PromptSet.id)
    return {row.name: row for row in session.scalars(query.with_for_update(read=True))} if names else {}


def check_run(
    session: Session, database: Database, catalog: Catalog, spec: RunSpec, uploaded: Collection[str] = ()
) -> Plan:
    """Check a run and return its plan.

    `uploaded` contains the names of the available prompt sets that are not in the catalog. Raises Invalid with all
    invalid fields, including those that exceed the cost limits.
    """
    plan, settings = make_plan(spec, catalog, uploaded), database.settings
    devices = capacity.available(session, settings)
    errors = [
        *_names(catalog, spec),
        *_prompt_sets(session, catalog, spec, uploaded),
        *check_budget(settings, plan),
        *capacity.errors(spec, plan, devices),
    ]
    model = find_model(catalog, spec.model)
    if model is not None:
        errors += check_size(model, spec.sampling.width, spec.sampling.height, ("body", "sampling"))
        if spec.start_from is not None:
            errors += _start(session, database.artifacts, spec, spec.start_from)
    if errors:
        raise Invalid(errors)
    return plan.model_copy(update={"warnings": (*plan.warnings, *capacity.warnings(spec, plan, devices))})


def warned_plan(session: Session, settings: Settings, catalog: Catalog, spec: RunSpec) -> Plan:
    """Return the plan of a run, with errors about names or devices converted to warnings.

    Raises Invalid if the run exceeds the cost limits.
    """
    plan = make_plan(spec, catalog, uploaded_sets(session, catalog, spec))
    if errors := list(check_budget(settings, plan)):
        raise Invalid(errors)
    devices = capacity.available(session, settings)
    unfit = (f"{'.'.join(map(str, one.loc[1:]))}: {one.msg}" for one in capacity.errors(spec, plan, devices))
    warnings = (*plan.warnings, *unfit, *capacity.warnings(spec, plan, devices))
    return plan.model_copy(update={"warnings": warnings})


def check_budget(settings: Settings, plan: Plan) -> Iterator[FieldError]:
    """Yield the errors of a run that exceeds the cost limits of this service."""
    yield from check_prompts(settings, len(plan.spec.prompts.items or ()), ("body", "prompts", "items"))
    if plan.total_nfe > settings.max_run_nfe:
        msg = (
            f"the run needs {plan.total_nfe} NFE, which exceeds the maximum of {settings.max_run_nfe}. Use fewer "
            "steps, prompts per step, samples per group or held-out images"
        )
        yield _error(("body", "training", "max_steps"), "too_many_nfe", msg)


def check_prompts(settings: Settings, prompts: int, loc: Loc) -> Iterator[FieldError]:
    """Yield an error if a request has more prompts than this service allows."""
    if prompts > settings.max_prompts:
        yield _error(loc, "too_many_prompts", f"{prompts} prompts: exceeds the maximum of {settings.max_prompts}")


def find_model(catalog: Catalog, name: str) -> ModelEntry | None:
    """Return the catalog model with the given name, or None if it does not exist."""
    return next((entry for entry in catalog.models if entry.name == name), None)


def unknown(lookup: Callable[[str], object], name: str, loc: Loc) -> Iterator[FieldError]:
    """Yield an error if the catalog's `lookup` does not find `name`. The error lists the known names."""
    try:
        lookup(name)
    except KeyError as missing:
        yield _error(loc, "unknown_name", str(missing.args[0]))


def check_size(model: ModelEntry, width: int, height: int, loc: Loc) -> Iterator[FieldError]:
    """Yield an error for each side of an image size that the model does not support."""
    for side, pixels in (("width", width), ("height", height)):
        if pixels > model.max_size or pixels % model.size_multiple:
            msg = (
                f"{model.name} does not support {side} {pixels}; expected multiples of {model.size_multiple} up to "
                f"{model.max_size} pixels"
            )
            yield _error((*loc, side), "size_not_possible", msg)


def lock_checkpoints(session: Session, ids: Collection[uuid.UUID]) -> None:
    """Prevent checkpoints from being deleted before the commit.

    Call this before locking jobs that refer to the checkpoints. Deletions also lock checkpoints first, in id order, and
    then those jobs.
    """
    if ids:
        own = select(Checkpoint.id).where(Checkpoint.id.in_(ids)).order_by(Checkpoint.id)
        session.execute(own.with_for_update(read=True)).all()


def check_checkpoint(
    session: Session, artifacts: ArtifactStore, id: uuid.UUID, model: str, loc: Loc
) -> tuple[Checkpoint | None, Sequence[FieldError]]:
    """Return a checkpoint, or None if it does not exist or was deleted, and the errors of using it with `model`."""
    # Hold a shared lock until the commit: either a concurrent deletion is visible here, or it sees the reference.
    checkpoint = session.get(Checkpoint, id, with_for_update={"read": True}, populate_existing=True)
    if checkpoint is None:
        return None, [_error(loc, "unknown_name", f"checkpoint {id} not found")]
    if checkpoint.deleted_at is not None:
        msg = f"checkpoint {id} was deleted at {checkpoint.deleted_at:%Y-%m-%d %H:%M:%S} UTC; use another checkpoint"
        return None, [_error(loc, "deleted_checkpoint", msg)]
    if checkpoint.model != model:
        architecture = f" (architecture {checkpoint.architecture[:12]})" if checkpoint.architecture else ""
        msg = (
            f"checkpoint {id} belongs to model {checkpoint.model!r}{architecture}, not to {model!r}; "
            f"set model to {checkpoint.model!r} or use another checkpoint"
        )
        return checkpoint, [_error(loc, "other_architecture", msg)]
    try:
        artifacts.check_whole(checkpoint.stored.values())  # workers check the hashes
    except ArtifactDamaged as error:
        msg = f"checkpoint {id} is damaged ({error}); repair the artifact store or use another checkpoint"
        return checkpoint, [_error(loc, "damaged_checkpoint", msg)]
    return checkpoint, []


def _error(loc: Loc, type: str, msg: str) -> FieldError:
    return FieldError(loc=list(loc), msg=msg, type=type)


def _names(catalog: Catalog, spec: RunSpec) -> Iterator[FieldError]:
    yield from unknown(catalog.model, spec.model, ("body", "model"))
    for index, reward in enumerate(spec.rewards):
        yield from unknown(catalog.reward, reward.name, ("body", "rewards", index, "name"))
    for index, name in enumerate(spec.heldout.rewards or ()):
        yield from unknown(catalog.reward, name, ("body", "heldout", "rewards", index))


def _prompt_sets(session: Session, catalog: Catalog, spec: RunSpec, uploaded: Collection[str]) -> Iterator[FieldError]:
    bundled = [entry.name for entry in catalog.prompt_sets]
    for name, loc in ((spec.prompts.set, ("prompts", "set")), (spec.heldout.prompts, ("heldout", "prompts"))):
        if name is not None and name not in bundled and name not in uploaded:
            query = select(PromptSet.name).where(PromptSet.deleted_at.is_(None)).order_by(PromptSet.name)
            found = session.scalars(query.limit(_MAX_LISTED)).all()
            hint = did_you_mean(name, [*bundled, *found])
            msg = f"unknown prompt set {name!r}{hint}; the catalog has {', '.join(bundled)}; "
            msg += f"uploaded sets: {', '.join(found) or 'none'}"
            more = " and possibly others; see GET /prompt-sets" if len(found) == _MAX_LISTED else ""
            yield _error(("body", *loc), "unknown_name", msg + more)


def _start(session: Session, artifacts: ArtifactStore, spec: RunSpec, id: uuid.UUID) -> Iterator[FieldError]:
    loc: Loc = ("body", "start_from")
    checkpoint, errors = check_checkpoint(session, artifacts, id, spec.model, loc)
    yield from errors
    if checkpoint is None:
        return
    training, manifest = spec.training, checkpoint.manifest
    if checkpoint.kind != training.adapter:
        kind = checkpoint.kind
        msg = f"checkpoint {id} has kind {kind!r}; training.adapter must be {kind!r}, not {training.adapter!r}"
        yield _error(loc, "other_kind", msg)
    elif checkpoint.kind == "lora":
        for name in ("rank", "alpha"):
            trained, requested = manifest.get(f"lora_{name}"), getattr(training, f"lora_{name}")
            if trained != requested:
                required = f"training.lora_{name} must be {trained}, not {requested}"
                msg = f"checkpoint {id} has LoRA {name} {trained}; {required}"
                yield _error(loc, f"other_{name}", msg)
                return
