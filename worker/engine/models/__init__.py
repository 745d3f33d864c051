"""Adapters for diffusers models, one file per family."""

import torch

from service.contracts.catalog import ModelEntry
from worker.engine import precision
from worker.engine.models.base import FlowModel
from worker.engine.models.flux import FluxModel
from worker.engine.models.sd3 import SD3Model

FAMILIES: dict[str, type[FlowModel]] = {"flux": FluxModel, "sd3": SD3Model}


def check_model(entry: ModelEntry) -> None:
    """Raise ValueError if the files of the catalog's model do not fit, without using a device."""
    FAMILIES[entry.family].check(entry)


def load_model(entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> FlowModel:
    """Load the catalog's model onto `device` in `dtype`, frozen. Raises ValueError if its files do not fit."""
    precision.disable_tf32()
    return FAMILIES[entry.family].load(entry, device, dtype)


__all__ = ["FAMILIES", "FlowModel", "check_model", "load_model"]
