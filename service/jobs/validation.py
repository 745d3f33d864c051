"""Looking up the names of a request, in the catalog and among checkpoints, and holding it to the limits."""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.plan import Plan, make_plan
from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.models import Checkpoint, PromptSet
from service.db.session import Database
from service.http.errors import FieldError, Invalid
from service.jobs import capacity

Loc = tuple[str | int, ...]
_MOST_TOLD = 20
"""Uploaded prompt sets that a refusal names."""


def uploaded_sets(session: Session, catalog: Catalog, spec: RunSpec) -> dict[str, PromptSet]:
    """The uploaded prompt sets that a spec names, by name. They cannot be deleted before the session's commit."""
    offered = {entry.name for entry in catalog.prompt_sets}
    named = {name for name in (spec.prompts.set, spec.heldout.prompts) if name is not None} - offered
    if not named:
        return {}
    query = select(PromptSet).where(PromptSet.name.in_(named), PromptSet.deleted_at.is_(None)).order_by(PromptSet.id)
    return {row.name: row for row in session.scalars(query.with_for_update(read=True))}


def check_run(
    session: Session, database: Database, catalog: Catalog, spec: RunSpec, uploaded: Collection[str] = ()
) -> Plan:
    """The plan of a run whose names are known and fit together, and whose cost is within the limits.

    `uploaded` are names of prompt sets beside the catalog's.

    Raises Invalid, with every field that is wrong.
    """
    plan, settings = make_plan(spec, catalog, uploaded), database.settings
    there = capacity.present(session, settings)
    errors = [
        *_names(catalog, spec),
        *_prompt_sets(session, catalog, spec, uploaded),
        *check_budget(settings, plan),
        *capacity.refusals(spec, plan, there),
    ]
    model = find_model(catalog, spec.model)
    if model is not None:
        errors += check_size(model, spec.sampling.width, spec.sampling.height, ("body", "sampling"))
        if spec.start_from is not None:
            errors += _start(session, database.artifacts, spec, spec.start_from)
    if errors:
        raise Invalid(errors)
    return plan.model_copy(update={"warnings": (*plan.warnings, *capacity.warnings(spec, plan, there))})


def warned_plan(session: Session, settings: Settings, catalog: Catalog, spec: RunSpec) -> Plan:
    """The plan of a run, with what would be refused for want of names or devices as warnings.

    Raises Invalid where it would cost more than this service allows.
    """
    plan = make_plan(spec, catalog, uploaded_sets(session, catalog, spec))
    if errors := list(check_budget(settings, plan)):
        raise Invalid(errors)
    there = capacity.present(session, settings)
    refused = (f"{'.'.join(map(str, one.loc[1:]))}: {one.msg}" for one in capacity.refusals(spec, plan, there))
    warnings = (*plan.warnings, *refused, *capacity.warnings(spec, plan, there))
    return plan.model_copy(update={"warnings": warnings})


def check_budget(settings: Settings, plan: Plan) -> Iterator[FieldError]:
    """The errors of a run that would cost more than this service allows."""
    yield from check_prompts(settings, len(plan.spec.prompts.items or ()), ("body", "prompts", "items"))
    most = settings.max_run_nfe
    if plan.total_nfe > most:
        yield FieldError(
            loc=["body", "training", "max_steps"],
            msg=f"the run would evaluate the network {plan.total_nfe} times; allowed are {most}. Take fewer "
            "steps, prompts per step, samples of a group, or held-out images",
            type="too_many_nfe",
        )


def check_prompts(settings: Settings, prompts: int, loc: Loc) -> Iterator[FieldError]:
    """The error of a request that lists more prompts than this service allows."""
    if prompts > settings.max_prompts:
        msg = f"{prompts} prompts; allowed are {settings.max_prompts}"
        yield FieldError(loc=list(loc), msg=msg, type="too_many_prompts")


def find_model(catalog: Catalog, name: str) -> ModelEntry | None:
    """The model of that name, if the catalog has it."""
    return next((entry for entry in catalog.models if entry.name == name), None)


def unknown(lookup: Callable[[str], object], name: str, loc: Loc) -> Iterator[FieldError]:
    """The error for a name that the catalog's `lookup` does not know; it says which there are."""
    try:
        lookup(name)
    except KeyError as missing:
        yield FieldError(loc=list(loc), msg=str(missing.args[0]), type="unknown_name")


def check_size(model: ModelEntry, width: int, height: int, loc: Loc) -> Iterator[FieldError]:
    """The errors of an image size that the model cannot draw."""
    for side, pixels in (("width", width), ("height", height)):
        if pixels > model.max_size or pixels % model.size_multiple:
            yield FieldError(
                loc=[*loc, side],
                msg=f"{pixels} is no {side} of {model.name}; allowed are multiples of {model.size_multiple} "
                f"up to {model.max_size} pixels",
                type="size_not_possible",
            )


def lock_checkpoints(session: Session, ids: Collection[uuid.UUID]) -> None:
    """Keep checkpoints from being deleted before the commit, in the order in which deletions lock them: by id.

    To be called before jobs that refer to them are locked, for a deletion goes on to these.
    """
    if ids:
        own = select(Checkpoint.id).where(Checkpoint.id.in_(ids)).order_by(Checkpoint.id)
        session.execute(own.with_for_update(read=True)).all()


def check_checkpoint(
    session: Session, artifacts: ArtifactStore, id: uuid.UUID, model: str, loc: Loc
) -> tuple[Checkpoint | None, Sequence[FieldError]]:
    """A checkpoint and what speaks against using it with `model`."""
    # Shared until the commit: what is deleted meanwhile is either seen here or sees who uses it.
    checkpoint = session.get(Checkpoint, id, with_for_update={"read": True}, populate_existing=True)
    if checkpoint is None:
        return None, [FieldError(loc=list(loc), msg=f"there is no checkpoint {id}", type="unknown_name")]
    if checkpoint.deleted_at is not None:
        msg = f"checkpoint {id} was deleted at {checkpoint.deleted_at:%Y-%m-%d %H:%M:%S} UTC; take another one"
        return None, [FieldError(loc=list(loc), msg=msg, type="deleted_checkpoint")]
    if checkpoint.model != model:
        about = f" (architecture {checkpoint.architecture[:12]})" if checkpoint.architecture else ""
        msg = (
            f"checkpoint {id} belongs to model {checkpoint.model!r}{about}, not to {model!r}; "
            f"set model to {checkpoint.model!r} or take another checkpoint"
        )
        return checkpoint, [FieldError(loc=list(loc), msg=msg, type="other_architecture")]
    try:
        artifacts.check_whole(checkpoint.stored.values())  # hashes are checked by who fetches it
    except ArtifactDamaged as error:
        msg = f"checkpoint {id} is damaged ({error}); mend the artifact store or take another checkpoint"
        return checkpoint, [FieldError(loc=list(loc), msg=msg, type="damaged_checkpoint")]
    return checkpoint, []


def _names(catalog: Catalog, spec: RunSpec) -> Iterator[FieldError]:
    yield from unknown(catalog.model, spec.model, ("body", "model"))
    for index, reward in enumerate(spec.rewards):
        yield from unknown(catalog.reward, reward.name, ("body", "rewards", index, "name"))
    for index, name in enumerate(spec.heldout.rewards or ()):
        yield from unknown(catalog.reward, name, ("body", "heldout", "rewards", index))


def _prompt_sets(session: Session, catalog: Catalog, spec: RunSpec, uploaded: Collection[str]) -> Iterator[FieldError]:
    places: list[tuple[str | None, Loc]] = [
        (spec.prompts.set, ("body", "prompts", "set")),
        (spec.heldout.prompts, ("body", "heldout", "prompts")),
    ]
    known = {entry.name for entry in catalog.prompt_sets} | set(uploaded)
    for name, loc in places:
        if name is not None and name not in known:
            there = select(PromptSet.name).where(PromptSet.deleted_at.is_(None)).order_by(PromptSet.name)
            sent = session.scalars(there.limit(_MOST_TOLD)).all()
            offered = ", ".join(entry.name for entry in catalog.prompt_sets)
            msg = f"unknown prompt set {name!r}; the catalog has {offered}; uploaded are {', '.join(sent) or 'none'}"
            more = " and perhaps others: GET /prompt-sets lists all" if len(sent) == _MOST_TOLD else ""
            yield FieldError(loc=list(loc), msg=msg + more, type="unknown_name")


def _start(session: Session, artifacts: ArtifactStore, spec: RunSpec, id: uuid.UUID) -> Iterator[FieldError]:
    loc: Loc = ("body", "start_from")
    checkpoint, errors = check_checkpoint(session, artifacts, id, spec.model, loc)
    yield from errors
    if checkpoint is None:
        return
    training, manifest = spec.training, checkpoint.manifest
    rank, alpha = manifest.get("lora_rank"), manifest.get("lora_alpha")
    if checkpoint.kind != training.adapter:
        msg = f"checkpoint {id} is of kind {checkpoint.kind!r}; set training.adapter to it, not to {training.adapter!r}"
        yield FieldError(loc=list(loc), msg=msg, type="other_kind")
    elif checkpoint.kind == "lora" and rank != training.lora_rank:
        msg = f"checkpoint {id} is a LoRA of rank {rank}; set training.lora_rank to it, not to {training.lora_rank}"
        yield FieldError(loc=list(loc), msg=msg, type="other_rank")
    elif checkpoint.kind == "lora" and alpha != training.lora_alpha:
        msg = f"checkpoint {id} is a LoRA of alpha {alpha}; set training.lora_alpha to it, not to {training.lora_alpha}"
        yield FieldError(loc=list(loc), msg=msg, type="other_alpha")
