"""Build the catalog view that clients see."""

from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.api.catalog.schemas import AlgorithmView, CatalogView
from service.contracts.algorithms import CONTRACTS
from service.contracts.catalog import Catalog
from service.contracts.presets import DESCRIPTIONS, PRESETS
from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db.models import Worker


def show(session: Session, settings: Settings, catalog: Catalog) -> CatalogView:
    """Return the catalog entries, algorithms and presets, and the live workers."""
    cutoff = func.now() - timedelta(seconds=settings.worker_timeout_seconds)
    workers = session.scalars(select(Worker).where(Worker.heartbeat_at > cutoff).order_by(Worker.name))
    others = {"algorithms": _algorithms(), "presets": _presets(), "workers": list(workers)}
    return CatalogView.model_validate({**dict(catalog), **others, "preset_descriptions": DESCRIPTIONS})


@cache
def _algorithms() -> list[AlgorithmView]:
    return [
        AlgorithmView(name=name, description=algorithm.__doc__ or "", json_schema=algorithm.model_json_schema())
        for name, algorithm in CONTRACTS.items()
    ]


@cache
def _presets() -> dict[str, dict[str, Any]]:
    return {name: RunSpec(preset=name).model_dump(mode="json") for name in PRESETS}
