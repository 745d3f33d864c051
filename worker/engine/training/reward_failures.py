"""Detection of steps in which too many rewards failed, after which the run pauses or fails."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from service.contracts.events import Cause
from service.contracts.runs import Training
from worker.engine.training.distributed import Distributed
from worker.engine.training.reward_scorer import RewardScorer

_HINT = (
    "Fix the reward's server or its catalog entry, then resume the run; it continues after its last complete step. "
    "training.max_missing_rewards and training.max_missing_steps set how many values may be missing."
)


class RewardsFailed(Exception):
    """Raised when every reward failed for every image of a step, and no server computes any of the rewards."""


class RewardsUnavailable(Exception):
    """Raised when a reward fails for a reason that may be temporary. The run then pauses."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.cause = Cause(code="rewards_failed", detail=detail, hint=_HINT)


class RewardFailureMonitor:
    """Checks the rewards of a step before training on them.

    All processes see the same values and therefore make the same decision.
    """

    def __init__(self, training: Training, scorer: RewardScorer, distributed: Distributed) -> None:
        self._training, self._scorer, self._distributed = training, scorer, distributed
        self.streaks: dict[str, int] = {}
        """For each reward, the consecutive steps in which more than `max_missing_rewards` of its values were missing.

        Rewards without such steps are omitted.
        """

    def check(self, rewards: Tensor, names: Sequence[str], finite: Tensor) -> None:
        """Raise RewardsUnavailable or RewardsFailed if the run must not train on `rewards` [rewards, images].

        finite: [images], whether each image is finite. If none is, the model has failed, which the update detects.
        """
        images = int(finite.sum())
        if not images:
            return
        self.check_servers(rewards[:, finite], names)
        missing = (~rewards[:, finite].isfinite()).sum(dim=1).tolist()
        if min(missing) == images:
            causes = "; ".join(f"{name}: {cause}" for name, cause in self._causes().items()) or "All values were NaN."
            raise RewardsFailed(f"every reward failed for every image of the step. {causes}")
        limit = self._training.max_missing_rewards
        counts = dict(zip(names, missing, strict=True))
        self.streaks = {name: self.streaks.get(name, 0) + 1 for name, count in counts.items() if count / images > limit}
        for name, steps in self.streaks.items():
            if steps >= self._training.max_missing_steps:
                raise RewardsUnavailable(
                    f"{self._describe(name)} failed for {counts[name]} of {images} images; its share of failures "
                    f"exceeded {limit:g} in {steps} consecutive steps; {self._last_error(name)}"
                )

    def check_servers(self, values: Tensor, names: Sequence[str]) -> None:
        """Raise RewardsUnavailable if a server returned no finite value in its row of `values` [rewards, images]."""
        for name, row in zip(names, values, strict=True):
            if self._scorer.server(name) is not None and len(row) and not row.isfinite().any():
                raise RewardsUnavailable(
                    f"{self._describe(name)} failed for all {len(row)} images; {self._last_error(name)}"
                )

    def state_dict(self) -> dict[str, Any]:
        return {"streaks": dict(self.streaks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streaks = dict(state["streaks"])

    def _describe(self, name: str) -> str:
        server = self._scorer.server(name)
        return f"reward {name!r}" + (f" (server {server})" if server else "")

    def _last_error(self, name: str) -> str:
        return f"last error: {self._causes().get(name, 'its values were not finite')}"

    def _causes(self) -> dict[str, str]:
        """Return the latest failure cause of each reward, preferring the cause from the lowest rank."""
        gathered = self._distributed.all_gather_object(self._scorer.causes)
        return {name: cause for causes in reversed(gathered) for name, cause in causes.items()}
