"""The algorithms, built from schedules, transitions, rollouts, advantages and the loss."""

from worker.engine.grpo.algorithms.base import Algorithm
from worker.engine.grpo.algorithms.dance_grpo import DanceGRPO
from worker.engine.grpo.algorithms.flow_grpo import FlowGRPO
from worker.engine.grpo.algorithms.g2rpo import GranularGRPO
from worker.engine.grpo.algorithms.mix_grpo import MixGRPO

ALGORITHMS: dict[str, type[Algorithm]] = {
    "g2rpo": GranularGRPO,
    "dance_grpo": DanceGRPO,
    "mix_grpo": MixGRPO,
    "flow_grpo": FlowGRPO,
}
"""The algorithm classes by their names in run specs."""
