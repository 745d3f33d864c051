"""The algorithm section of a run spec.

Each algorithm has its own module and must be listed in `CONTRACTS` and `Algorithm`.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from service.contracts.algorithms.base import Advantage, AlgorithmContract
from service.contracts.algorithms.dance_grpo import DanceGRPO
from service.contracts.algorithms.flow_grpo import FlowGRPO
from service.contracts.algorithms.g2rpo import G2RPO
from service.contracts.algorithms.mix_grpo import MixGRPO
from service.contracts.validation_errors import did_you_mean

CONTRACTS: dict[str, type[AlgorithmContract]] = {
    "g2rpo": G2RPO,
    "dance_grpo": DanceGRPO,
    "mix_grpo": MixGRPO,
    "flow_grpo": FlowGRPO,
}


def _name(value: Any) -> Any:
    """Return the algorithm name in `value`, which defaults to `g2rpo` for a dict."""
    return value.get("name", "g2rpo") if isinstance(value, dict) else getattr(value, "name", None)


def _check_name(value: Any) -> Any:
    """Return `value`. Raises PydanticCustomError if its algorithm name is unknown."""
    name = _name(value)
    if not isinstance(name, str) or name not in CONTRACTS:
        raise PydanticCustomError(
            "unknown_algorithm",
            "Unknown algorithm {value}; expected an object whose name is one of {allowed}",
            {
                "value": repr(name if isinstance(value, dict) else value)[:100] + did_you_mean(str(name), CONTRACTS),
                "allowed": ", ".join(CONTRACTS),
            },
        )
    return value


Algorithm = Annotated[
    Annotated[G2RPO, Tag("g2rpo")]
    | Annotated[DanceGRPO, Tag("dance_grpo")]
    | Annotated[MixGRPO, Tag("mix_grpo")]
    | Annotated[FlowGRPO, Tag("flow_grpo")],
    Discriminator(_name),
    BeforeValidator(_check_name),
]
"""Any of the algorithms, selected by `name`."""

__all__ = ["CONTRACTS", "G2RPO", "Advantage", "Algorithm", "AlgorithmContract", "DanceGRPO", "FlowGRPO", "MixGRPO"]
