"""`/evaluations/{id}/export`: files from which the official scripts and `rescore` compute the same scores."""

import ast
import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.evaluations import export
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.status import JobStatus
from service.db.models import Evaluation
from service.db.session import Database
from service.http.errors import WrongState
from tests.service.unigenbench import EN, ZH, about, answer, benchmark, csv_text, dimensions_of

AWKWARD = "a \"tree\", drawn\nover two lines; =1+1, 'quoted' and 🌳 \r\n twice"
FILES = (EN, ZH)


def evaluated(records: Any, file: Any = EN, prompts: Any = None) -> Any:
    """An evaluation of 4 images per prompt with random scores and two failures."""
    chance = random.Random(1)
    content = prompts or benchmark(file=file)
    answers: dict[tuple[int, int], Any] = {
        (prompt.index, image_index): [int(chance.random() < 0.6) for _ in prompt.points]
        for prompt in content.prompts
        for image_index in range(4)
    }
    answers[2, 1] = Failure.NO_SCORES
    answers[5, 3] = Failure.NO_ANSWER
    return records.evaluation(content, answers=answers, num_images=4)


def official_scores(text: str) -> dict[str, dict[str, tuple[int, int]]]:
    """The counts of the official script for its CSV."""
    counts: dict[str, Any] = {"primary_dimensions": defaultdict(list), "sub_dimensions": defaultdict(list)}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        try:
            result = ast.literal_eval(row["result_json"])["score"]
        except ValueError:
            continue  # `null`: the script skips the row
        for name, score in zip(ast.literal_eval(row["testpoint"]), result, strict=True):
            counts["primary_dimensions"][name.split("-", 1)[0].strip()].append(score)
            counts["sub_dimensions"][name].append(score)
    return {part: {name: (sum(all), len(all)) for name, all in found.items()} for part, found in counts.items()}


def fetch(client: TestClient, evaluation: Any, accept: str) -> Any:
    response = client.get(f"/evaluations/{evaluation.id}/export", headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(accept) and response.headers["vary"] == "Accept"
    return response


def stored_scores(database: Database, evaluation: Any) -> Any:
    with database.sessions() as session:
        return session.get_one(Evaluation, evaluation.id).scores


@pytest.mark.parametrize("file", FILES)
def test_the_csv_has_the_scores_of_the_evaluation(
    client: TestClient, records: Any, database: Database, file: Any
) -> None:
    evaluation = evaluated(records, file)
    content = fetch(client, evaluation, "text/csv").content
    rescored = client.post(f"/benchmarks/{file.name}/rescore", content=content, headers={"Content-Type": "text/csv"})
    assert rescored.status_code == 200, rescored.text
    scores = stored_scores(database, evaluation)
    assert rescored.json()["scores"] == scores
    assert scores["failed_answers"] == 2 and scores["images"] == 38


@pytest.mark.parametrize("file", FILES)
def test_both_files_have_the_counts_of_the_official_script(client: TestClient, records: Any, file: Any) -> None:
    evaluation = evaluated(records, file)
    expected = official_scores(fetch(client, evaluation, "text/csv").text)
    summary = fetch(client, evaluation, "application/json").json()
    for part, counts in expected.items():
        assert {name: (one["correct"], one["total"]) for name, one in summary[part].items()} == counts
    one = summary["sub_dimensions"]["Style" if file == EN else "风格"]
    assert one["accuracy"] == round(one["correct"] / one["total"], 4)


def test_the_summary_has_the_accuracies_of_the_evaluation(client: TestClient, records: Any, database: Database) -> None:
    evaluation = evaluated(records)
    content = fetch(client, evaluation, "application/json").content
    headers = {"Content-Type": "application/json"}
    rescored = client.post(f"/benchmarks/{EN.name}/rescore", content=content, headers=headers).json()
    scores = stored_scores(database, evaluation)
    assert (rescored["form"], rescored["scores"]["overall"]) == ("counts", scores["overall"])
    for part in ("primary", "sub"):
        found = {name: one["correct"] for name, one in rescored["scores"][part].items()}
        assert found == {name: one["correct"] for name, one in scores[part].items()}


def test_a_row_has_the_format_of_the_official_script(client: TestClient, records: Any) -> None:
    evaluation = evaluated(records)
    records.answer(evaluation, 2, 1, [1, 0, 1], number=2, text=answer([1, 0, 1]))
    response = fetch(client, evaluation, "text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert response.text.splitlines()[0] == "index,prompt,testpoint,output,result_json,img_path"
    assert response.headers["content-disposition"] == f'attachment; filename="{evaluation.id}.csv"'
    assert len(rows) == 40 and rows[9]["img_path"] == "2_1.png"
    assert rows[9]["output"] == answer([1, 0, 1])  # the newest answer, not the failed answer before it
    assert ast.literal_eval(rows[9]["testpoint"]) == list(dimensions_of(2))
    assert json.loads(rows[9]["result_json"]) == {
        "prompt": benchmark().prompts[2].text,
        "testpoint": list(dimensions_of(2)),
        "score": [1, 0, 1],
    }
    assert rows[23]["result_json"] == "null" and rows[23]["output"] == ""  # no answer


def test_special_characters_are_unchanged(client: TestClient, records: Any) -> None:
    body = [["0", AWKWARD, json.dumps(about(["Style"], "en"))]]
    odd = benchmark(csv_text(EN.columns, body).encode())
    evaluation = records.evaluation(odd, answers={(0, 0): [1]}, num_images=1)
    records.answer(evaluation, 0, 0, [1], number=2, text=f"{AWKWARD}<score>[1]</score>")
    response = fetch(client, evaluation, "text/csv")
    [row] = csv.DictReader(io.StringIO(response.text, newline=""))
    assert (row["prompt"], row["output"]) == (AWKWARD, f"{AWKWARD}<score>[1]</score>")
    sent = {"content": response.content, "headers": {"Content-Type": "text/csv"}}
    rescored = client.post(f"/benchmarks/{EN.name}/rescore", **sent).json()
    assert rescored["scores"]["micro"]["correct"] == 1


@pytest.mark.parametrize("accept", ["text/csv", "application/json"])
def test_it_must_have_ended_and_have_a_judge(client: TestClient, records: Any, accept: str) -> None:
    running = records.evaluation(benchmark(), JobStatus.RUNNING)
    unjudged = records.evaluation(benchmark(), judge=None, rewards=["clip_score"])
    for row, code in ((running, "not_finished"), (unjudged, "not_judged")):
        response = client.get(f"/evaluations/{row.id}/export", headers={"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (409, code)


def test_other_media_types_are_not_acceptable(client: TestClient, records: Any) -> None:
    response = client.get(f"/evaluations/{evaluated(records).id}/export", headers={"Accept": "text/html"})
    assert response.status_code == 406


def test_it_is_read_in_pieces_and_stops_when_the_evaluation_is_resumed(
    records: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_PAGE", 5)
    evaluation = evaluated(records)
    pieces: Iterator[str] = export.rows(database, evaluation.id)
    assert next(pieces).startswith("index,")
    assert len(list(csv.reader(io.StringIO(next(pieces))))) == 5
    with database.transaction() as session:
        session.get_one(Evaluation, evaluation.id).attempt += 1
    with pytest.raises(WrongState, match="resumed"):
        next(pieces)
