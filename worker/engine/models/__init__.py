"""Adapters for diffusers models, one file per family."""

import torch

from service.contracts.catalog import ModelEntry
from worker.engine import precision
from worker.engine.models.base import FlowModel
from worker.engine.models.flux import FluxModel
from worker.engine.models.sd3 import SD3Model

FAMILIES: dict[str, type[FlowModel]] = {"flux": FluxModel, "sd3": SD3Model}


def check_model(entry: ModelEntry) -> None:
    """Check the model files of a catalog entry without using a device.

    Raises ValueError if files are missing or do not match the model family.
    """
    FAMILIES[entry.family].check(entry)


def load_model(entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> FlowModel:
    """Load the model of a catalog entry onto `device` in `dtype`, with frozen weights.

    Raises ValueError if files are missing or do not match the model family.
    """
    precision.disable_tf32()
    return FAMILIES[entry.family].load(entry, device, dtype)


__all__ = ["FAMILIES", "FlowModel", "check_model", "load_model"]
