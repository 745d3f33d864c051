"""`/runs/{run_id}/rewards`: reward groups with standard deviation and failures, and pagination."""

import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contracts.status import JobStatus


@pytest.fixture
def run(records: Any) -> Any:
    return records.run(JobStatus.RUNNING, spec={"algorithm": {"advantage": {"std_floor": 0.01}}})


def groups(client: TestClient, run: Any, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/runs/{run.id}/rewards{query}")
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def test_a_group_shows_values_spread_and_failures(client: TestClient, records: Any, run: Any) -> None:
    records.reward_group(run, [1.0, None, 3.0, 5.0])
    (group,) = groups(client, run)
    assert (group["values"], group["failures"], group["zero_std"]) == ([1.0, None, 3.0, 5.0], 1, False)
    assert (group["mean"], group["std"]) == (3.0, 2.0)
    assert (group["prompt"], group["reward"]) == ("a red circle", "clip_score")


@pytest.mark.parametrize(
    ("values", "mean", "std", "zero_std"),
    [
        ([0.5, 0.5, 0.5], 0.5, 0.0, True),
        ([0.5, 0.503], 0.5015, 0.00212132, True),
        ([None, 0.5], 0.5, None, False),
        ([None, None], None, None, False),
    ],
)
def test_groups_without_a_usable_spread_are_marked(
    client: TestClient, records: Any, run: Any, values: list[float | None], mean: Any, std: Any, zero_std: bool
) -> None:
    records.reward_group(run, values)
    (group,) = groups(client, run)
    assert group["mean"] == (mean and pytest.approx(mean)) and group["std"] == (std and pytest.approx(std, abs=1e-6))
    assert group["zero_std"] is zero_std


def test_filters_are_combined(client: TestClient, records: Any, run: Any) -> None:
    for step in (1, 2):
        for sde_step in (0, 1):
            for granularity in (1, 2):
                for reward in ("clip_score", "shapes_verifier"):
                    place = {"step": step, "sde_step": sde_step, "granularity": granularity, "reward": reward}
                    records.reward_group(run, [1.0, 2.0], **place)
    assert len(groups(client, run)) == 16
    assert len(groups(client, run, "?step=2")) == 8
    (one,) = groups(client, run, "?step=2&sde_step=0&granularity=2&reward=shapes_verifier")
    assert (one["step"], one["sde_step"], one["granularity"], one["reward"]) == (2, 0, 2, "shapes_verifier")


def test_the_newest_attempt_wins(client: TestClient, records: Any, run: Any) -> None:
    records.reward_group(run, [1.0, 2.0], attempt=1)
    records.reward_group(run, [3.0, 4.0], attempt=2)
    (group,) = groups(client, run)
    assert (group["attempt"], group["values"]) == (2, [3.0, 4.0])


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_contain_every_group_once(client: TestClient, records: Any, run: Any, limit: int) -> None:
    places = [(step, prompt, granularity) for step in (1, 2) for prompt in (0, 1) for granularity in (1, 2)]
    for step, prompt, granularity in places[::-1]:
        for attempt in (1, 2):
            place = {"step": step, "prompt_index": prompt, "granularity": granularity, "attempt": attempt}
            records.reward_group(run, [1.0], **place)
    seen: list[tuple[int, int, int]] = []
    cursor = ""
    while True:
        page = client.get(f"/runs/{run.id}/rewards?limit={limit}{cursor}").json()
        seen += [(item["step"], item["prompt_index"], item["granularity"]) for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == places


def test_an_unknown_run_is_not_found(client: TestClient) -> None:
    assert client.get(f"/runs/{uuid.uuid4()}/rewards").status_code == 404


@pytest.mark.parametrize("query", ["step=-1", "granularity=0", "reward=%00", "cursor=WzFd", "prompt=a"])
def test_an_invalid_query_is_rejected(client: TestClient, run: Any, query: str) -> None:
    assert client.get(f"/runs/{run.id}/rewards?{query}").status_code == 422
