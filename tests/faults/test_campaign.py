"""A short campaign: despite faults, every accepted job ends with exactly the results of a run without faults."""

from pathlib import Path

import pytest

from tests.faults.campaign import run_campaign

SEED = 20
FAULTS = (
    "training process (a rank) killed",
    "training process's whole group killed",
    "training worker frozen beyond the lease, its process runs on",
    "training worker (the supervisor) killed",
    "training worker terminated (SIGTERM)",
    "generating worker killed",
    "evaluating process killed",
    "API killed",
    "Valkey killed",
    "Valkey emptied",
    "PostgreSQL restarted (fast)",
    "PostgreSQL killed (crash recovery)",
    "artifact store refuses for seconds",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_job_is_lost_or_duplicated_and_nothing_remains(tmp_path: Path) -> None:
    result = run_campaign(
        tmp_path.resolve(),
        SEED,
        kills=100,
        most_faults=len(FAULTS),
        most_seconds=120.0,
        settle_seconds=300.0,
        between=(0.2, 1.0),
        at_once=2,
        kinds=FAULTS,
    )

    assert not result.wrong, result.report()
    assert result.compared["runs against their reference"] > 0
    assert result.compared["images that were evaluated"] > 0
