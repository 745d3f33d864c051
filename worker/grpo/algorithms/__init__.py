"""The algorithms, composed of schedules, transitions, rollouts, advantages and the objective."""

from worker.grpo.algorithms.base import Algorithm
from worker.grpo.algorithms.dance_grpo import DanceGRPO
from worker.grpo.algorithms.flow_grpo import FlowGRPO
from worker.grpo.algorithms.g2rpo import GranularGRPO
from worker.grpo.algorithms.mix_grpo import MixGRPO

ALGORITHMS: dict[str, type[Algorithm]] = {
    "g2rpo": GranularGRPO,
    "dance_grpo": DanceGRPO,
    "mix_grpo": MixGRPO,
    "flow_grpo": FlowGRPO,
}
"""Every algorithm that a spec can name."""
