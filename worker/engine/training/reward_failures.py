"""When rewards fail too much to be trained on: the run then waits for somebody to mend them, or ends."""

from collections.abc import Sequence

from torch import Tensor

from service.contracts.events import Cause
from service.contracts.runs import Training
from worker.engine.training.distributed import Ranks
from worker.engine.training.reward_scorer import Scorer

_HINT = (
    "Mend the reward's server, or what is asked of it, then resume the run: it goes on from its last whole step. "
    "training.max_missing_rewards and training.max_missing_steps say how much may be missing."
)


class RewardsFailed(Exception):
    """Every reward failed on every image of a step, none of them a server's."""


class RewardsAway(Exception):
    """A reward fails for a cause that may pass: the run is to be saved, and to wait."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.cause = Cause(code="rewards_failed", detail=detail, hint=_HINT)


class RewardWatch:
    """Sees the values of each step before they are trained on. All ranks see the same values, and decide alike."""

    def __init__(self, training: Training, scorer: Scorer, ranks: Ranks) -> None:
        self._training, self._scorer, self._ranks = training, scorer, ranks
        self.streaks: dict[str, int] = {}
        """Steps in a row in which a reward failed too often, by name."""

    def judge(self, rewards: Tensor, names: Sequence[str], drawn: Tensor) -> None:
        """Raise where `rewards` [rewards, images] are not to be trained on; count where they hardly are.

        drawn: which images [images] are finite. Where none is, it is the model that fails: the update notices.
        """
        images = int(drawn.sum())
        if not images:
            return
        self.refuse_silent(rewards[:, drawn], names)
        missing = (~rewards[:, drawn].isfinite()).sum(dim=1).tolist()
        if min(missing) == images:
            raise RewardsFailed(f"every reward failed on every image of the step. {self._all_causes()}")
        most = self._training.max_missing_rewards
        self.streaks = {
            name: self.streaks.get(name, 0) + 1
            for name, number in zip(names, missing, strict=True)
            if number / images > most
        }
        for name, steps in self.streaks.items():
            if steps >= self._training.max_missing_steps:
                number = missing[list(names).index(name)]
                said = f"{self._named(name)} failed on {number} of {images} images"
                often = f"the last of {steps} steps in a row with more than {most:g} of them missing"
                raise RewardsAway(f"{said}, {often}; {self._last(name)}")

    def refuse_silent(self, values: Tensor, names: Sequence[str]) -> None:
        """Raise RewardsAway where a server gave not one of `values` [rewards, images]."""
        for name, row in zip(names, values, strict=True):
            if self._scorer.server(name) is not None and len(row) and not row.isfinite().any():
                raise RewardsAway(f"{self._named(name)} failed on all {len(row)} images; {self._last(name)}")

    def _named(self, name: str) -> str:
        server = self._scorer.server(name)
        return f"reward {name!r}" + (f", asked of {server}," if server else "")

    def _last(self, name: str) -> str:
        return f"at last: {self._causes().get(name, 'its values were not finite')}"

    def _all_causes(self) -> str:
        return "; ".join(f"{name}: {cause}" for name, cause in self._causes().items()) or "All values were NaN."

    def _causes(self) -> dict[str, str]:
        """The latest cause of each reward, the leading rank's where it has one."""
        return {name: cause for said in reversed(self._ranks.tell(self._scorer.causes)) for name, cause in said.items()}
