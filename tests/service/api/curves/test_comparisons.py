"""`/curves`: runs and groups of seeds in one chart, over steps, NFE and seconds."""

import csv
import io
import math
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.client import Client
from service.contracts.status import JobStatus

CLIP = "heldout/clip_score"


@pytest.fixture
def seeds(records: Any) -> list[Any]:
    """Three runs of one experiment, evaluated at steps 0, 1 and 2; the last run is the slowest."""
    runs = [records.run(JobStatus.RUNNING, name=f"seed {seed}") for seed in range(3)]
    for number, run in enumerate(runs):
        records.metric(run, CLIP, [0.5, 0.6 + number / 100, 0.7 + number / 10])
        records.metric(run, "elapsed/nfe", [0, 1000, 2000])
        records.metric(run, "elapsed/seconds", [0, 10 + number, 20 + 2 * number])
    return runs


def compare(client: TestClient, *query: str, headers: dict[str, str] | None = None) -> Any:
    response = client.get(f"/curves?{'&'.join(query)}", headers=headers)
    assert response.status_code == 200, response.text
    return response.json() if headers is None else response


def group(runs: list[Any], name: str = "g2rpo") -> str:
    return f"group={name}:{','.join(str(run.id) for run in runs)}"


class TestRuns:
    def test_runs_share_an_axis(self, client: TestClient, seeds: list[Any]) -> None:
        found = compare(client, *(f"run={run.id}" for run in seeds), f"metric={CLIP}")
        assert (found["x"], found["unit"], found["warnings"]) == ("step", "optimizer steps", [])
        assert [one["name"] for one in found["series"]] == ["seed 0", "seed 1", "seed 2"]
        assert found["series"][1] == {
            "name": "seed 1",
            "kind": "run",
            "runs": [str(seeds[1].id)],
            "metric": CLIP,
            "x": [0, 1, 2],
            "values": pytest.approx([0.5, 0.61, 0.8]),
            "low": None,
            "high": None,
            "n": [1, 1, 1],
        }

    def test_a_run_without_a_name_is_labeled_by_its_id(self, client: TestClient, records: Any) -> None:
        run = records.run()
        records.metric(run, "loss", [1.0])
        (one,) = compare(client, f"run={run.id}", "metric=loss")["series"]
        assert one["name"] == str(run.id)

    def test_equal_names_are_distinguished_by_id(self, client: TestClient, records: Any) -> None:
        runs = [records.run(name=name) for name in ("twin", "twin", "g", "other")]
        for run in runs:
            records.metric(run, "loss", [1.0])
        found = compare(client, *(f"run={run.id}" for run in runs), group(runs[:2], "g"), "metric=loss")
        ends = [str(run.id)[-8:] for run in runs]
        names = ["g", f"twin (…{ends[0]})", f"twin (…{ends[1]})", f"g (…{ends[2]})", "other"]
        assert [one["name"] for one in found["series"]] == names

    def test_buckets_and_smoothing_equal_those_of_a_single_run(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        records.metric(run, "loss", [math.sin(step) for step in range(100)] + [None] * 10, first=3)
        fine = "since_step=5&max_points=9&smooth=0.5"
        (single,) = client.get(f"/runs/{run.id}/curves?metrics=loss&{fine}").json()["curves"]
        (one,) = compare(client, f"run={run.id}", "metric=loss", fine)["series"]
        assert (one["x"], one["values"]) == (single["steps"], single["values"])
        assert one["n"] == [int(value is not None) for value in one["values"]]

    def test_metrics_have_the_order_of_the_query(self, client: TestClient, records: Any) -> None:
        run = records.run()
        for name in ("heldout/a", "heldout/b", "loss", "other"):
            records.metric(run, name, [1.0])
        found = compare(client, f"run={run.id}", "metric=loss,heldout/*", "metric=*")
        assert [one["metric"] for one in found["series"]] == ["loss", "heldout/a", "heldout/b", "other"]

    def test_different_heldout_pairs_are_a_warning(self, client: TestClient, records: Any, seeds: list[Any]) -> None:
        other = records.run(JobStatus.RUNNING, {"heldout": {"pairs": 16}}, name="few")
        records.metric(other, CLIP, [0.5, 0.6])
        query = (f"run={seeds[0].id}", f"run={other.id}", f"metric={CLIP}")
        warning = "not comparable: the runs have different held-out pairs (seed 0: 128; few: 16)"
        found = compare(client, *query)
        assert (found["warnings"], found["heldout_pairs"]) == ([warning], None)
        assert warning[:40] in compare(client, *query, headers={"Accept": "image/svg+xml"}).text

    def test_missing_metrics_are_warnings(self, client: TestClient, records: Any, seeds: list[Any]) -> None:
        bare = records.run(name="bare")
        found = compare(client, f"run={bare.id}", group([seeds[0], bare]), f"metric={CLIP},nothing,no*")
        assert [one["runs"] for one in found["series"]] == [[str(seeds[0].id)]]
        assert found["warnings"] == [
            "no run has a metric that matches 'nothing'",
            "no run has a metric that matches 'no*'",
            f"run bare has no metric {CLIP}",
        ]


class TestGroups:
    def test_a_group_is_a_mean_with_a_confidence_interval(self, client: TestClient, seeds: list[Any]) -> None:
        (one,) = compare(client, group(seeds), f"metric={CLIP}")["series"]
        assert (one["name"], one["kind"], one["runs"]) == ("g2rpo", "group", [str(run.id) for run in seeds])
        assert (one["x"], one["n"]) == ([0, 1, 2], [3, 3, 3])
        assert one["values"] == pytest.approx([0.5, 0.61, 0.8])
        half = [4.302653 * spread / math.sqrt(3) for spread in (0, 0.01, 0.1)]
        assert one["low"] == pytest.approx([0.5, 0.61 - half[1], 0.8 - half[2]])
        assert one["high"] == pytest.approx([0.5, 0.61 + half[1], 0.8 + half[2]])

    @pytest.mark.parametrize(("band", "low"), [("minmax", 0.7), ("std", 0.7), ("none", None)])
    def test_bands(self, client: TestClient, seeds: list[Any], band: str, low: Any) -> None:
        (one,) = compare(client, group(seeds), f"metric={CLIP}", f"band={band}")["series"]
        assert (one["low"] and one["low"][2]) == (low and pytest.approx(low))

    def test_a_group_of_one_run_has_no_band(self, client: TestClient, seeds: list[Any]) -> None:
        (one,) = compare(client, group(seeds[:1]), f"metric={CLIP}", "band=minmax")["series"]
        assert (one["kind"], one["low"], one["high"]) == ("group", None, None)

    def test_the_mean_is_over_the_runs_with_a_value(self, client: TestClient, records: Any, seeds: list[Any]) -> None:
        early = records.run(name="early")
        records.metric(early, CLIP, [0.9, None])
        found = compare(client, group([seeds[0], early]), f"metric={CLIP}")
        (one,) = found["series"]
        assert (one["x"], one["n"]) == ([0, 1, 2], [2, 1, 1])
        assert one["values"] == pytest.approx([0.7, 0.6, 0.7])
        assert one["low"][1:] == [None, None]
        assert found["warnings"] == [f"group g2rpo: some of its 2 runs lack points of {CLIP}; see `n`"]

    def test_runs_of_a_group_share_buckets(self, client: TestClient, records: Any) -> None:
        runs = [records.run(name=name) for name in "ab"]
        records.metric(runs[0], "loss", [1.0] * 100)
        records.metric(runs[1], "loss", [3.0] * 90, first=14)
        (one,) = compare(client, group(runs), "metric=loss", "max_points=10")["series"]
        assert one["x"] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
        assert one["n"] == [1] + [2] * 9
        assert one["values"] == [1] + [2] * 9

    def test_a_run_may_be_single_and_in_several_groups(self, client: TestClient, seeds: list[Any]) -> None:
        parameters = (group(seeds), group(seeds[:2], "first:two"), f"run={seeds[0].id}", f"metric={CLIP}")
        found = compare(client, *parameters)
        assert [(one["name"], len(one["runs"])) for one in found["series"]] == [
            ("g2rpo", 3),
            ("first:two", 2),
            ("seed 0", 1),
        ]

    def test_the_order_of_runs_changes_nothing(self, client: TestClient, seeds: list[Any]) -> None:
        for x in ("step", "nfe", "seconds"):
            (one,) = compare(client, group(seeds), f"metric={CLIP}", f"x={x}")["series"]
            (other,) = compare(client, group(seeds[::-1]), f"metric={CLIP}", f"x={x}")["series"]
            assert one == other | {"runs": one["runs"]}


class TestElapsed:
    def test_points_are_mapped_by_step(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        records.metric(run, "elapsed/seconds", [0.0, 2.5, 5.0, 7.5, 10.0])
        for step in (0, 2, 4):
            records.metric(run, CLIP, [0.5 + step / 10], first=step)
        found = compare(client, f"run={run.id}", f"metric={CLIP}", "x=seconds")
        assert (found["x"], found["unit"]) == ("seconds", "seconds")
        assert found["series"][0]["x"] == [0, 5, 10]
        assert found["series"][0]["values"] == pytest.approx([0.5, 0.7, 0.9])

    def test_runs_of_equal_x_are_averaged_there(self, client: TestClient, seeds: list[Any]) -> None:
        found = compare(client, group(seeds), f"metric={CLIP}", "x=nfe")
        (one,) = found["series"]
        assert (found["unit"], one["x"], one["n"]) == ("NFE", [0, 1000, 2000], [3, 3, 3])
        assert one["values"] == pytest.approx([0.5, 0.61, 0.8])

    def test_values_are_interpolated_on_the_common_range(self, client: TestClient, seeds: list[Any]) -> None:
        (one,) = compare(client, group(seeds), f"metric={CLIP}", "x=seconds")["series"]
        assert one["x"] == [0, 10, 11, 12, 20]
        third = 0.62 + (0.9 - 0.62) * 8 / 12
        second = 0.61 + (0.8 - 0.61) * 9 / 11
        assert one["values"][-1] == pytest.approx((0.7 + second + third) / 3)

    def test_the_common_grid_has_at_most_max_points(self, client: TestClient, seeds: list[Any]) -> None:
        parameters = (group(seeds), f"metric={CLIP}", "x=seconds", "max_points=3")
        assert compare(client, *parameters)["series"][0]["x"] == [0, 10, 20]

    def test_a_run_without_the_axis_is_omitted_with_a_warning(
        self, client: TestClient, records: Any, seeds: list[Any]
    ) -> None:
        old = records.run(name="old")
        records.metric(old, CLIP, [0.1, 0.2])
        found = compare(client, group([*seeds, old]), f"run={old.id}", f"metric={CLIP}", "x=nfe")
        (one,) = found["series"]
        assert (one["runs"], one["n"]) == ([str(run.id) for run in seeds], [3, 3, 3])
        assert found["warnings"] == ["run old has no elapsed/nfe: its points are omitted"]

    def test_points_without_the_axis_are_omitted_with_a_warning(self, client: TestClient, records: Any) -> None:
        run = records.run(name="half old")
        records.metric(run, CLIP, [0.1, 0.2, 0.3, 0.4])
        records.metric(run, "elapsed/seconds", [5.0, None], first=2)
        found = compare(client, f"run={run.id}", f"metric={CLIP}", "x=seconds")
        assert (found["series"][0]["x"], found["series"][0]["values"]) == ([5], [0.3])
        warning = "run half old has no elapsed/seconds at 3 of 4 steps: their points are omitted"
        assert found["warnings"] == [warning]

    def test_later_points_of_an_earlier_attempt_are_omitted(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.RUNNING, attempt=2)
        records.metric(run, "loss", [5.0, 4.0, 3.0, 2.0])
        records.metric(run, "elapsed/seconds", [0.0, 10.0, 20.0, 30.0])
        records.metric(run, "loss", [3.5], attempt=2, first=2)
        records.metric(run, "elapsed/seconds", [35.0], attempt=2, first=2)
        (one,) = compare(client, f"run={run.id}", "metric=loss", "x=seconds")["series"]
        assert (one["x"], one["values"]) == ([0, 10, 35], [5, 4, 3.5])

    def test_a_group_without_a_common_range_is_a_warning(self, client: TestClient, records: Any) -> None:
        runs = [records.run(name=name) for name in "ab"]
        for number, run in enumerate(runs):
            records.metric(run, "loss", [1.0, 2.0])
            records.metric(run, "elapsed/seconds", [100.0 * number, 100.0 * number + 50])
        found = compare(client, group(runs), "metric=loss", "x=seconds")
        assert found["series"] == []
        assert found["warnings"] == ["the runs of group g2rpo have no common range of seconds for loss"]


class TestErrors:
    def test_an_unknown_run_is_named(self, client: TestClient, seeds: list[Any]) -> None:
        unknown = uuid.uuid4()
        for parameters in (f"run={unknown}", f"group=g:{seeds[0].id},{unknown}"):
            response = client.get(f"/curves?{parameters}&metric=loss")
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
            assert str(unknown) in response.json()["detail"]

    @pytest.mark.parametrize(
        ("query", "field", "words"),
        [
            ("metric=loss", "group", "run=ID or group=NAME:ID,ID"),
            ("run={0}", "metric", "Missing query parameter 'metric'"),
            ("run={0}&metric=,", "metric", "metric=NAME"),
            ("run=abc&metric=loss", "run", "valid UUID"),
            ("run={0}&run={0}&metric=loss", "run", "Duplicate run {0}; list each run once"),
            ("group=abc&metric=loss", "group", "Invalid group 'abc'; write NAME:ID,ID"),
            ("group=:{0}&metric=loss", "group", "Invalid group"),
            ("group=g:{0},abc&metric=loss", "group", "Invalid run id 'abc' in group 'g'; write NAME:ID,ID"),
            ("group=g:{0},&metric=loss", "group", "Invalid run id '' in group 'g'"),
            ("group=g:{0},{1},{0}&metric=loss", "group", "Duplicate run {0} in group 'g'"),
            ("group=g:{0}&group=g:{1}&metric=loss", "group", "Duplicate group name 'g'"),
            ("group=g%00:{0}&metric=loss", "group", "character 2 is U+0000"),
            ("group=" + "g" * 201 + ":{0}&metric=loss", "group", "at most 200 characters"),
            ("run={0}&metric=loss&x=time", "x", "'step', 'nfe' or 'seconds'"),
            ("run={0}&metric=loss&band=iqr", "band", "'minmax', 'std', 'ci95' or 'none'"),
            ("run={0}&metric=loss&width_mm=39", "width_mm", "greater than or equal to 40"),
            ("run={0}&metric=loss&width_mm=401", "width_mm", "less than or equal to 400"),
            ("run={0}&metric=loss&max_points=0", "max_points", "greater than or equal to 1"),
            ("run={0}&metric=loss&smooth=1", "smooth", "less than 1"),
            ("run={0}&metrics=loss&metric=loss", "metrics", "Did you mean 'metric'?"),
        ],
    )
    def test_an_invalid_query_names_what_is_allowed(
        self, client: TestClient, seeds: list[Any], query: str, field: str, words: str
    ) -> None:
        ids = [str(run.id) for run in seeds]
        response = client.get("/curves?" + query.format(*ids))
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["loc"][:2] == ["query", field]
        assert words.format(*ids) in error["msg"]

    def test_too_many_runs_and_groups(self, client: TestClient) -> None:
        ids = [str(uuid.UUID(int=number)) for number in range(65)]
        alone = [f"run={id}" for id in ids]
        errors = [
            client.get(f"/curves?metric=loss&{'&'.join(parameters)}").json()["errors"][0]
            for parameters in (
                alone,
                [*alone[:32], f"group=g:{','.join(ids[:33])}"],
                [f"group={number}:{ids[number]}" for number in range(17)],
            )
        ]
        assert [error["loc"] for error in errors] == [["query", "run"], ["query", "group"], ["query", "group"]]
        assert "at most 64" in errors[0]["msg"]
        assert "Too many runs: 65" in errors[1]["msg"] and "at most 64" in errors[1]["msg"]
        assert "at most 16" in errors[2]["msg"]

    def test_too_many_metrics(self, client: TestClient, records: Any) -> None:
        run = records.run()
        for number in range(25):
            records.metric(run, f"m/{number:02}", [1.0])
        response = client.get(f"/curves?run={run.id}&metric=m/*")
        (error,) = response.json()["errors"]
        assert (response.status_code, error["loc"]) == (422, ["query", "metric"])
        assert error["msg"] == "'m/*' matches 25 metrics; at most 24 are allowed"
        assert len(compare(client, f"run={run.id}", "metric=m/0*,m/1*")["series"]) == 20

    def test_too_many_points(self, client: TestClient, records: Any) -> None:
        runs = [records.run() for _ in range(5)]
        for run in runs:
            for number in range(21):
                for step in (0, 20_000):
                    records.metric(run, f"m/{number:02}", [1.0], first=step)
        parameters = f"/curves?{group(runs)}&metric=m/*&max_points="
        response = client.get(parameters + "10000")
        (error,) = response.json()["errors"]
        assert (response.status_code, error["loc"]) == (422, ["query", "max_points"])
        assert error["msg"].endswith("at most 1000000 are allowed. Set max_points to 9523 or less")
        assert client.get(parameters + "9523").status_code == 200


class TestMediaTypes:
    def test_csv_has_a_line_per_point(self, client: TestClient, records: Any, seeds: list[Any]) -> None:
        for number, run in enumerate(seeds):
            records.metric(run, "loss", [0.25 + number / 2, None])
        parameters = (group(seeds[:2]), f"run={seeds[2].id}", "metric=loss", "band=minmax")
        response = compare(client, *parameters, headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert list(csv.reader(io.StringIO(response.text))) == [
            ["name", "kind", "metric", "x", "value", "low", "high", "n"],
            ["g2rpo", "group", "loss", "0.0", "0.5", "0.25", "0.75", "2"],
            ["g2rpo", "group", "loss", "1.0", "", "", "", "0"],
            ["seed 2", "run", "loss", "0.0", "1.25", "", "", "1"],
            ["seed 2", "run", "loss", "1.0", "", "", "", "0"],
        ]

    @pytest.mark.parametrize("width", [40, 85.5, 400])
    def test_figures_have_the_requested_width(self, client: TestClient, seeds: list[Any], width: float) -> None:
        parameters = (group(seeds), f"run={seeds[0].id}", f"metric={CLIP},elapsed/*", f"width_mm={width}")
        png = compare(client, *parameters, headers={"Accept": "image/png"})
        with Image.open(io.BytesIO(png.content)) as image:
            assert image.width == pytest.approx(width / 25.4 * 200, abs=1)
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        svg = compare(client, *parameters, headers={"Accept": "image/svg+xml"})
        points = float(svg.text.partition('width="')[2].partition("pt")[0])
        assert points == pytest.approx(width / 25.4 * 72, abs=0.01)

    @pytest.mark.parametrize(
        ("x", "label"),
        [("step", "optimizer step"), ("nfe", "NFE"), ("seconds", "training time (s)")],
    )
    def test_svg_has_labels(self, client: TestClient, records: Any, seeds: list[Any], x: str, label: str) -> None:
        records.metric(seeds[0], "loss $x$", [1.0])
        parameters = (group(seeds, "_g$p$"), f"run={seeds[0].id}", f"metric={CLIP}", "metric=loss*", f"x={x}")
        text = compare(client, *parameters, headers={"Accept": "image/svg+xml"}).text
        for words in (
            "Held-out CLIP score, 128 pairs",
            "Loss $x$",
            label,
            "_g$p$ (n = 3)",
            "seed 0",
            "95% CI of the mean",
            "reward",
        ):
            assert f"<!-- {words} -->" in text

    def test_long_times_are_shown_in_hours(self, client: TestClient, records: Any) -> None:
        run = records.run()
        records.metric(run, "loss", [1.0, 2.0])
        records.metric(run, "elapsed/seconds", [0.0, 86_400.0])
        parameters = (f"run={run.id}", "metric=loss", "x=seconds")
        assert "<!-- training time (h) -->" in compare(client, *parameters, headers={"Accept": "image/svg+xml"}).text

    def test_nfe_have_si_prefixes(self, client: TestClient, records: Any) -> None:
        run = records.run()
        records.metric(run, "loss", [1.0, 2.0])
        records.metric(run, "elapsed/nfe", [0.0, 3_000_000.0])
        parameters = (f"run={run.id}", "metric=loss", "x=nfe")
        assert "\N{THIN SPACE}M -->" in compare(client, *parameters, headers={"Accept": "image/svg+xml"}).text

    @pytest.mark.parametrize("form", ["image/png", "image/svg+xml"])
    def test_the_same_figure_has_the_same_bytes(self, client: TestClient, seeds: list[Any], form: str) -> None:
        parameters = (group(seeds), f"metric={CLIP}", "x=seconds")
        first, second = (compare(client, *parameters, headers={"Accept": form}) for _ in range(2))
        assert first.content == second.content
        assert first.headers["vary"] == "Accept" and first.headers["content-type"] == form

    def test_a_figure_without_metrics(self, client: TestClient, seeds: list[Any]) -> None:
        parameters = (f"run={seeds[0].id}", "metric=nothing")
        assert "no metrics yet" in compare(client, *parameters, headers={"Accept": "image/svg+xml"}).text

    def test_other_media_types_are_not_acceptable(self, client: TestClient, seeds: list[Any]) -> None:
        response = client.get(f"/curves?run={seeds[0].id}&metric=loss", headers={"Accept": "application/xml"})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")


class TestClientMethods:
    def test_the_client_reads_every_media_type(self, app: Any, serve: Any, seeds: list[Any]) -> None:
        groups = {"all: of them": [run.id for run in seeds]}
        with serve(app) as url, Client(url) as client:
            found = client.compare([CLIP], runs=[seeds[0].id], groups=groups, x="seconds", band="std", smooth=0.1)
            assert [(one.name, one.kind) for one in found.series] == [("all: of them", "group"), ("seed 0", "run")]
            assert found.series[0].x == [0, 10, 11, 12, 20] and found.band == "std"
            assert client.compare_table([CLIP], groups=groups).startswith(b"name,kind,metric,")
            assert client.compare_figure([CLIP], groups=groups, x="nfe").startswith(b"<?xml")
            png = client.compare_figure([CLIP], "png", runs=[seeds[0].id], width_mm=50)
        with Image.open(io.BytesIO(png)) as image:
            assert image.width == pytest.approx(394, abs=1)
