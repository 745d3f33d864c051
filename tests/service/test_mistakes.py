"""Mistakes of a new user: every message names the field, the value, what is allowed and, for a typo, the name meant."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

IMAGE = {"prompt": "a", "image": "aa"}
RUNS: list[tuple[dict[str, Any] | list[Any] | str, str]] = [
    # An unknown field
    ({"training": {"lr": 1e-4}}, "body.training.lr: Unknown field 'lr' in training. Did you mean 'learning_rate'?"),
    ({"training": {"learningrate": 1e-4}}, "Unknown field 'learningrate' in training. Did you mean 'learning_rate'?"),
    ({"training": {"wd": 0.1}}, "Unknown field 'wd' in training. Did you mean 'weight_decay'?"),
    ({"training": {"steps": 10}}, "Unknown field 'steps' in training. Did you mean 'max_steps' or 'sampling.steps'?"),
    ({"training": {"rank": 8}}, "Unknown field 'rank' in training. Did you mean 'lora_rank'?"),
    ({"training": {"group_size": 8}}, "Unknown field 'group_size' in training. Did you mean 'algorithm.group_size'?"),
    (
        {"training": {"optimizer": "adam"}},
        "Unknown field 'optimizer' in training. Allowed: max_steps, prompts_per_step,",
    ),
    ({"max_steps": 10}, "body.max_steps: Unknown field 'max_steps'. Did you mean 'training.max_steps'?"),
    ({"seed": 1}, "Unknown field 'seed'. Did you mean 'training.seed' or 'heldout.seed'?"),
    ({"lr": 1}, "Unknown field 'lr'. Did you mean 'training.learning_rate'?"),
    ({"width": 64}, "Unknown field 'width'. Did you mean 'sampling.width'?"),
    ({"traning": {}}, "body.traning: Unknown field 'traning'. Did you mean 'training'?"),
    ({"prompt": "a cat"}, "Unknown field 'prompt'. Did you mean 'prompts'?"),
    ({"reward": "clip_score"}, "Unknown field 'reward'. Did you mean 'rewards'"),
    ({"epochs": 3}, "Unknown field 'epochs'. Allowed: preset, name, labels, model, start_from,"),
    (
        {"algorithm": {"name": "g2rpo", "grup_size": 8}},
        "body.algorithm.grup_size: Unknown field 'grup_size' in algorithm.",
    ),
    ({"algorithm": {"grup_size": 8}}, "Did you mean 'group_size'?"),
    ({"algorithm": {"name": "flow_grpo", "granularities": [1]}}, "Unknown field 'granularities' in algorithm."),
    (
        {"algorithm": {"name": "mix_grpo", "window": {"sise": 4}}},
        "body.algorithm.window.sise: Unknown field 'sise' in algorithm.window. Did you mean 'size'?",
    ),
    ({"rewards": [{"nam": "clip_score"}]}, "Unknown field 'nam' in rewards[0]. Did you mean 'name'?"),
    (
        {"rewards": [{"name": "clip_score", "wieght": 2}]},
        "body.rewards.0.wieght: Unknown field 'wieght' in rewards[0].",
    ),
    ({"heldout": {"early_stop": {"reward": "clip_score", "patiance": 3}}}, "Did you mean 'patience'?"),
    ({"checkpoints": {"save_every": 5}}, "Unknown field 'save_every' in checkpoints. Did you mean 'every'"),
    ({"prompts": {"sets": "shapes-train"}}, "Unknown field 'sets' in prompts. Did you mean 'set'?"),
    # A value that does not exist
    ({"preset": "papr"}, "Unknown preset 'papr' (did you mean 'paper'?); allowed: shapes, shapes-no-mgai,"),
    ({"model": "shapes-flx"}, "Unknown model 'shapes-flx' (did you mean 'shapes-flux'?); the catalog has shapes-flux,"),
    (
        {"rewards": ["clip_scor"]},
        "body.rewards.0.name: Unknown reward 'clip_scor' (did you mean 'clip_score'?); the catalog",
    ),
    ({"heldout": {"rewards": ["clipscore"]}}, "Unknown reward 'clipscore' (did you mean 'clip_score'?)"),
    (
        {"prompts": {"set": "shape-train"}},
        "unknown prompt set 'shape-train' (did you mean 'shapes-train'?); the catalog has",
    ),
    (
        {"algorithm": {"name": "grpo"}},
        "Unknown algorithm 'grpo' (did you mean 'g2rpo'?); expected an object whose name",
    ),
    ({"algorithm": "g2rpo"}, "body.algorithm: Unknown algorithm 'g2rpo'"),
    ({"training": {"adapter": "loar"}}, "Invalid value 'loar': must be 'lora' or 'full'. Did you mean 'lora'?"),
    ({"training": {"precision": "fp16"}}, "Invalid value 'fp16': must be 'auto', 'float32' or 'bfloat16'"),
    (
        {"algorithm": {"advantage": {"std": "batches"}}},
        "Invalid value 'batches': must be 'group' or 'batch'. Did you mean",
    ),
    ({"start_from": "latest"}, "body.start_from: Invalid value 'latest': must be a valid UUID"),
    # A value of another type
    ({"training": {"learning_rate": "fast"}}, "Invalid value 'fast': must be a valid number"),
    ({"training": {"max_steps": 1.5}}, "body.training.max_steps: Invalid value 1.5: must be a valid integer"),
    ({"training": {"max_steps": None}}, "Invalid value null: must be a valid integer"),
    ({"training": {"seed": True}}, "Invalid value true: must be a number, not true or false"),
    ({"training": {"gradient_checkpointing": "yes"}}, "Invalid value 'yes': must be true or false"),
    ({"training": []}, "body.training: Invalid value []: must be an object with the fields max_steps,"),
    ({"prompts": "a cat"}, "body.prompts: Invalid value 'a cat': must be an object with the fields set, items"),
    ({"prompts": ["a cat", "a dog"]}, "Invalid value […] of length 2: must be an object with the fields set, items"),
    ({"prompts": {"set": "a", "items": ["b"]}}, "give either `set` or `items`"),
    ({"rewards": {"clip_score": 1}}, "body.rewards: Invalid value {…} of length 1: must be a list"),
    ({"rewards": "clip_score"}, "body.rewards: Invalid value 'clip_score': must be a list"),
    ({"labels": {"project": 3}}, "body.labels.project: Invalid value 3: must be a valid string"),
    ([], "body: Invalid value []: must be an object with the fields preset, name, labels, model,"),
    ("shapes", "body: Invalid value 'shapes': must be an object with the fields preset,"),
    # A value out of range
    ({"training": {"max_steps": 0}}, "body.training.max_steps: Invalid value 0: must be greater than or equal to 1"),
    ({"training": {"learning_rate": 2}}, "Invalid value 2: must be less than or equal to 1"),
    ({"sampling": {"width": 500}}, "body.sampling.width: Invalid value 500: must be a multiple of 16"),
    ({"rewards": []}, "body.rewards: Invalid value []: must have at least 1 item"),
    ({"rewards": [{"name": "clip_score", "weight": 0}]}, "weight 0 has no effect"),
    ({"rewards": ["clip_score", "clip_score"]}, "clip_score given more than once"),
    (
        {"model": "FLUX.1 dev"},
        "Invalid value 'FLUX.1 dev': must be 1 to 63 lowercase letters, digits, dots, hyphens or",
    ),
    ({"name": "n" * 300}, "body.name: Invalid value '" + "n" * 80 + "'…: must have at most 200 characters"),
]
OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("POST /generate", {"json": {}}, "body.prompts: Missing field 'prompts'"),
    ("POST /generate", {"json": {"prompts": "a"}}, "body.prompts: Invalid value 'a': must be a list"),
    ("POST /generate", {"json": {"prompts": ["a"], "n": 4}}, "Unknown field 'n'. Allowed: steps, guidance, width,"),
    ("POST /generate", {"json": {"prompts": ["a"], "num_image": 4}}, "Did you mean 'num_images'?"),
    (
        "POST /generate",
        {"json": {"prompts": ["a"], "checkpoints": ["bsae"]}},
        "body.checkpoints.0: Invalid value 'bsae': must be 'base' or a valid UUID. Did you mean 'base'?",
    ),
    ("POST /generate", {}, "body: Missing JSON body"),
    ("POST /score", {"json": {"rewards": ["clip_scor"], "images": [IMAGE]}}, "(did you mean 'clip_score'?)"),
    ("POST /score", {"json": {"rewards": ["clip_score"], "images": [{"text": "a"}]}}, "Missing field 'prompt'"),
    ("POST /evaluations", {"json": {"judge": "perceptron"}}, "Unknown judge 'perceptron' (did you mean 'perception'?)"),
    ("POST /evaluations", {"json": {"checkpoint": "latest"}}, "Invalid value 'latest': must be 'base' or a valid UUID"),
    ("POST /plans", {"json": {"training": {"lr": 1}}}, "Did you mean 'learning_rate'?"),
    ("GET /runs", {"params": {"limt": 3}}, "query.limt: Unknown query parameter 'limt'. Did you mean 'limit'?"),
    ("GET /runs", {"params": {"limit": 1000}}, "query.limit: Invalid value '1000': must be less than or equal to 200"),
    ("GET /runs", {"params": {"status": "done"}}, "Invalid value 'done': must be 'queued', 'starting', 'running',"),
    ("GET /runs", {"params": {"status": "runing"}}, "Did you mean 'running'?"),
    ("GET /runs/abc", {}, "path.run_id: Invalid value 'abc': must be a valid UUID"),
    ("GET /catalog", {"params": {"verbose": 1}}, "query.verbose: Unknown query parameter 'verbose'. Allowed: none"),
    ("POST /runs", {"content": '{"name": "a", "name": "b"}'}, "the name 'name' occurs more than once in an object"),
    ("POST /keys", {"json": {"name": "a", "scopes": ["wirte"]}}, "Did you mean 'write'?"),
]


@pytest.mark.parametrize(("body", "says"), RUNS, ids=lambda value: str(value)[:60])
def test_a_mistake_in_a_run_is_explained(client: TestClient, body: Any, says: str) -> None:
    check(client.post("/runs", json=body), says)


@pytest.mark.parametrize(("route", "request_", "says"), OTHERS, ids=lambda value: str(value)[:60])
def test_a_mistake_in_another_request_is_explained(
    client: TestClient, route: str, request_: dict[str, Any], says: str
) -> None:
    method, path = route.split()
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    check(client.request(method, path, headers=headers, **request_), says)


def check(response: Any, says: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "invalid_request"), problem
    assert says in problem["detail"]
    places = [tuple(error["loc"]) for error in problem["errors"]]
    assert len(set(places)) == len(places), "one error per field"
    assert "nput should" not in response.text and "Extra inputs" not in response.text


def test_a_reward_may_be_its_name(client: TestClient) -> None:
    created = client.post("/runs", json={"rewards": ["clip_score", {"name": "shapes_verifier", "weight": 2}]})
    assert created.status_code == 202, created.text
    rewards = client.get(created.headers["Location"]).json()["spec"]["rewards"]
    assert rewards == [{"name": "clip_score", "weight": 1.0}, {"name": "shapes_verifier", "weight": 2.0}]


def test_an_invalid_item_does_not_make_its_list_too_short(client: TestClient) -> None:
    (error,) = client.post("/runs", json={"rewards": [{"name": "clip_score", "weight": "high"}]}).json()["errors"]
    assert error["loc"] == ["body", "rewards", 0, "weight"]


def test_the_fields_of_a_clone_are_explained_too(client: TestClient, records: Any) -> None:
    run = records.run("succeeded")
    check(client.post(f"/runs/{run.id}/clone", json={"training": {"lr": 1}}), "Did you mean 'learning_rate'?")


def test_many_unknown_fields_are_reported_within_limits(client: TestClient) -> None:
    problem = client.post("/runs", json={f"learning_rat{number}": 1 for number in range(900)}).json()
    assert len(problem["errors"]) == 100 and problem["detail"].endswith("and 897 more")
