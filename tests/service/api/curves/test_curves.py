"""`/runs/{run_id}/curves`: metrics, resolution, smoothing and media types."""

import csv
import io
import math
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.api.curves.service import smoothed
from service.contracts.status import JobStatus


@pytest.fixture
def run(records: Any) -> Any:
    return records.run(JobStatus.RUNNING)


def curves(client: TestClient, run: Any, query: str = "") -> dict[str, dict[str, Any]]:
    response = client.get(f"/runs/{run.id}/curves{query}")
    assert response.status_code == 200, response.text
    return {curve["name"]: curve for curve in response.json()["curves"]}


class TestValues:
    def test_short_curves_have_every_step(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "loss", [0.5, None, 0.25])
        expected = {"name": "loss", "steps": [0, 1, 2], "values": [0.5, None, 0.25], "min": None, "max": None}
        assert curves(client, run) == {"loss": expected}

    def test_a_run_without_metrics_has_no_curves(self, client: TestClient, run: Any) -> None:
        assert curves(client, run) == {}

    def test_the_newest_attempt_of_a_step_wins(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.RUNNING, attempt=3)
        records.metric(run, "loss", [1, 1, 1, 1], attempt=1)
        records.metric(run, "loss", [2, 2], attempt=2, first=2)
        records.metric(run, "loss", [3], attempt=3, first=3)
        assert curves(client, run)["loss"]["values"] == [1, 1, 2, 3]
        assert curves(client, run, "?max_points=1")["loss"]["values"] == [7 / 4]
        assert client.get(f"/runs/{run.id}").json()["metrics"]["loss"] == {"step": 3, "value": 3}

    def test_other_runs_do_not_mix_in(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "loss", [1])
        records.metric(records.run(), "loss", [5, 5])
        assert curves(client, run)["loss"]["values"] == [1]

    def test_an_unknown_run_is_not_found(self, client: TestClient) -> None:
        assert client.get(f"/runs/{uuid.uuid4()}/curves").status_code == 404


class TestBuckets:
    def test_a_spike_stays_visible(self, client: TestClient, records: Any, run: Any) -> None:
        values = [0.0] * 10_000
        values[6_789], values[123] = 100.0, -50.0
        records.metric(run, "loss", values)
        curve = curves(client, run, "?max_points=100")["loss"]
        assert len(curve["steps"]) == 100
        assert (max(curve["max"]), min(curve["min"])) == (100.0, -50.0)
        assert curve["steps"][curve["max"].index(100.0)] == 6_700
        assert curve["values"][67] == pytest.approx(1.0)

    @pytest.mark.parametrize("max_points", [1, 7, 50, 99, 100, 101])
    def test_buckets_have_at_most_max_points_and_cover_all_steps(
        self, client: TestClient, records: Any, run: Any, max_points: int
    ) -> None:
        values = [math.sin(step) for step in range(100)]
        records.metric(run, "loss", values, first=11)
        curve = curves(client, run, f"?max_points={max_points}")["loss"]
        assert len(curve["steps"]) <= max_points
        assert curve["steps"] == sorted(set(curve["steps"])) and curve["steps"][0] == 11
        edges = [*curve["steps"], 111]
        for index, mean in enumerate(curve["values"]):
            inside = values[edges[index] - 11 : edges[index + 1] - 11]
            assert mean == pytest.approx(sum(inside) / len(inside))
            if curve["min"] is not None:
                assert (curve["min"][index], curve["max"][index]) == pytest.approx((min(inside), max(inside)))

    def test_sparse_metrics_beside_dense_ones_keep_their_points(
        self, client: TestClient, records: Any, run: Any
    ) -> None:
        records.metric(run, "loss", [0.0] * 1000)
        for step in (0, 500, 999):
            records.metric(run, "heldout/clip_score", [0.5], first=step)
        found = curves(client, run, "?max_points=10")
        assert found["heldout/clip_score"]["steps"] == [0, 500, 999]
        assert len(found["loss"]["steps"]) == 10

    def test_non_finite_values_are_ignored(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "loss", [None, 2.0, None, None])
        curve = curves(client, run, "?max_points=2")["loss"]
        assert (curve["values"], curve["steps"]) == ([2.0, None], [0, 2])

    def test_since_step_cuts_the_beginning(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "loss", [1, 2, 3, 4])
        records.metric(run, "early", [1])
        found = curves(client, run, "?since_step=2")
        assert found.keys() == {"loss"} and found["loss"]["steps"] == [2, 3]


class TestMetrics:
    @pytest.fixture(autouse=True)
    def metrics(self, records: Any, run: Any) -> None:
        for name in ("heldout/clip_score", "heldout/shapes_verifier", "held", "loss"):
            records.metric(run, name, [1.0])

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("", {"heldout/clip_score", "heldout/shapes_verifier", "held", "loss"}),
            ("?metrics=loss", {"loss"}),
            ("?metrics=loss,held", {"loss", "held"}),
            ("?metrics=loss&metrics=held", {"loss", "held"}),
            ("?metrics=heldout/*", {"heldout/clip_score", "heldout/shapes_verifier"}),
            ("?metrics=held*,%20loss", {"heldout/clip_score", "heldout/shapes_verifier", "held", "loss"}),
            ("?metrics=*", {"heldout/clip_score", "heldout/shapes_verifier", "held", "loss"}),
            ("?metrics=nothing", set()),
            ("?metrics=%25", set()),
        ],
    )
    def test_metrics_are_selected_by_name_or_prefix(
        self, client: TestClient, run: Any, query: str, names: set[str]
    ) -> None:
        assert curves(client, run, query).keys() == names

    @pytest.mark.parametrize(
        "query",
        ["max_points=0", "max_points=10001", "since_step=-1", "smooth=1", "smooth=nan", "metric=loss", "metrics=%00"],
    )
    def test_an_invalid_query(self, client: TestClient, run: Any, query: str) -> None:
        response = client.get(f"/runs/{run.id}/curves?{query}")
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"][:2] == ["query", query.split("=")[0]]


class TestSmoothing:
    def test_it_is_a_bias_corrected_moving_average(self) -> None:
        values = [1.0, 0.0, 4.0]
        expected = [1.0, (0.5 * 1.0 + 0.0) / 1.5, (0.25 * 1.0 + 0.5 * 0.0 + 4.0) / 1.75]
        assert smoothed(values, [1, 1, 1], 0.5) == pytest.approx(expected)

    @given(
        st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 4)), min_size=1, max_size=8),
        st.floats(0.01, 0.99),
    )
    def test_a_bucket_counts_as_its_values_in_a_row(self, buckets: list[tuple[float, int]], decay: float) -> None:
        one_by_one = [value for value, count in buckets for _ in range(count)]
        whole = smoothed(one_by_one, [1] * len(one_by_one), decay)[-1]
        assert smoothed([value for value, _ in buckets], [count for _, count in buckets], decay)[-1] == pytest.approx(
            whole, abs=1e-9
        )

    def test_gaps_stay_gaps(self) -> None:
        assert smoothed([1.0, None, 1.0], [1, 0, 1], 0.9) == pytest.approx([1.0, None, 1.0])

    def test_extremes_are_not_smoothed(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "loss", [0.0, 10.0, 0.0])
        curve = curves(client, run, "?smooth=0.9")["loss"]
        assert curve["max"] == [0, 10, 0] and curve["values"][1] < 10


class TestMediaTypes:
    @pytest.fixture(autouse=True)
    def metrics(self, records: Any, run: Any) -> None:
        records.metric(run, "heldout/clip_score", [0.1, None, 0.3])
        records.metric(run, "loss $x$", [float(step % 17) for step in range(3000)])

    def test_csv_has_a_line_per_point(self, client: TestClient, run: Any) -> None:
        response = client.get(f"/runs/{run.id}/curves?metrics=heldout/*", headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.reader(io.StringIO(response.text)))
        assert rows[0] == ["name", "step", "value", "min", "max"]
        assert rows[1:] == [
            ["heldout/clip_score", "0", "0.1", "0.1", "0.1"],
            ["heldout/clip_score", "1", "", "", ""],
            ["heldout/clip_score", "2", "0.3", "0.3", "0.3"],
        ]

    def test_png_is_an_image(self, client: TestClient, run: Any) -> None:
        response = client.get(f"/runs/{run.id}/curves", headers={"Accept": "image/png"})
        assert response.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(response.content)) as image:
            assert image.width == pytest.approx(240 / 25.4 * 200, abs=1) and image.height >= 300

    def test_the_title_is_the_name_of_the_run(self, client: TestClient, records: Any, run: Any) -> None:
        named = records.run(name="seed 7")
        records.metric(named, "loss", [1.0])
        for one, title in ((named, "seed 7"), (run, f"run {str(run.id)[-8:]}")):
            text = client.get(f"/runs/{one.id}/curves", headers={"Accept": "image/svg+xml"}).text
            assert f"<!-- {title} -->" in text

    def test_svg_has_labels(self, client: TestClient, run: Any) -> None:
        response = client.get(f"/runs/{run.id}/curves", headers={"Accept": "image/svg+xml"})
        assert response.headers["content-type"] == "image/svg+xml"
        assert response.text.startswith("<?xml")
        for words in ("Held-out CLIP score", "Loss $x$", "optimizer step", "min to max"):
            assert words in response.text

    def test_panels_are_ordered_by_family(self, client: TestClient, records: Any, run: Any) -> None:
        for name in ("advantage/abs_mean", "reward/clip_score", "seconds/rollout"):
            records.metric(run, name, [1.0, 2.0])
        text = client.get(f"/runs/{run.id}/curves", headers={"Accept": "image/svg+xml"}).text
        titles = ["Reward CLIP score", "Advantage abs mean", "Loss $x$", "Seconds rollout"]
        positions = [text.index(f"<!-- {title} -->") for title in titles]
        assert positions == sorted(positions)

    def test_the_suffix_of_the_path_selects_the_media_type(self, client: TestClient, run: Any) -> None:
        types = {
            "png": "image/png",
            "svg": "image/svg+xml",
            "csv": "text/csv; charset=utf-8",
            "json": "application/json",
        }
        for suffix, media_type in types.items():
            response = client.get(f"/runs/{run.id}/curves.{suffix}?metrics=heldout/*", headers={"Accept": "text/html"})
            assert (response.status_code, response.headers["content-type"]) == (200, media_type)
        assert client.get("/leaderboard.md").headers["content-type"].startswith("text/markdown")
        assert client.get(f"/runs/{run.id}/curves.gif").status_code == 404
        assert client.get("/runs.csv").status_code == 404

    def test_constant_zeros_are_left_out_unless_requested(self, client: TestClient, records: Any, run: Any) -> None:
        records.metric(run, "failures/clip_score", [0.0, 0.0])
        text = client.get(f"/runs/{run.id}/curves.svg").text
        assert "Failures CLIP score" not in text and "metrics that are always 0: 1 not shown" in text
        assert "Failures CLIP score" in client.get(f"/runs/{run.id}/curves.svg?metrics=failures/*").text

    def test_a_figure_without_metrics(self, client: TestClient, run: Any) -> None:
        response = client.get(f"/runs/{run.id}/curves?metrics=nothing", headers={"Accept": "image/svg+xml"})
        assert "no metrics yet" in response.text

    def test_other_media_types_are_not_acceptable(self, client: TestClient, run: Any) -> None:
        response = client.get(f"/runs/{run.id}/curves", headers={"Accept": "application/xml"})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
