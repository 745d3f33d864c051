"""What can be said of an alignment algorithm in a run's spec. Each is a file here, and a name in `Algorithm`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.algorithms.dance_grpo import DanceGRPO
from service.contracts.algorithms.flow_grpo import FlowGRPO
from service.contracts.algorithms.g2rpo import G2RPO
from service.contracts.algorithms.mix_grpo import MixGRPO
from service.contracts.algorithms.parts import Advantage

CONTRACTS: dict[str, type[AlgorithmContract]] = {
    "g2rpo": G2RPO,
    "dance_grpo": DanceGRPO,
    "mix_grpo": MixGRPO,
    "flow_grpo": FlowGRPO,
}


def _name(value: Any) -> str | None:
    """The name that says which contract is meant; G²RPO where none is said."""
    name = value.get("name", "g2rpo") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) else None


def _known(value: Any) -> Any:
    """`value`, unless it names an algorithm that there is not."""
    name = _name(value)
    if name is not None and name not in CONTRACTS:
        raise PydanticCustomError(
            "unknown_algorithm",
            "name {name} is no algorithm; allowed are {allowed}",
            {"name": repr(name), "allowed": ", ".join(CONTRACTS)},
        )
    return value


Algorithm = Annotated[
    Annotated[G2RPO, Tag("g2rpo")]
    | Annotated[DanceGRPO, Tag("dance_grpo")]
    | Annotated[MixGRPO, Tag("mix_grpo")]
    | Annotated[FlowGRPO, Tag("flow_grpo")],
    Discriminator(
        _name,
        custom_error_type="unknown_algorithm",
        custom_error_message=f"an algorithm is an object whose name is one of {', '.join(CONTRACTS)}",
    ),
    BeforeValidator(_known),
]
"""Any algorithm, told apart by its `name`."""

__all__ = ["CONTRACTS", "G2RPO", "Advantage", "Algorithm", "AlgorithmContract", "DanceGRPO", "FlowGRPO", "MixGRPO"]
