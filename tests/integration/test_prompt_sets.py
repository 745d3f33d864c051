"""Prompts sent over HTTP are what a run trains on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from service.client import ApiError, Client
from worker.shapes.grammar import train_prompts


def test_a_run_trains_on_what_was_sent(client: Client, tiny: Any, tmp_path: Path) -> None:
    file = tmp_path / "sent.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in train_prompts()[:12]))
    made = client.create_prompt_set(file, "sent", heldout=4).prompt_sets
    assert [one.prompts for one in made] == [8, 4]
    train, heldout = ([one.prompt for one in client.prompts(part.name)] for part in made)

    evaluated = {**tiny["evaluation"], "prompts": "sent-heldout"}
    run = client.create_run({**tiny, "prompts": {"set": "sent-train"}, "evaluation": evaluated})
    for part in made:
        with pytest.raises(ApiError) as refused:
            client.delete_prompt_set(part.name)
        assert refused.value.code == "in_use"

    run = client.wait_for_run(run.id, timeout=240, every=0.2)
    assert run.status == "succeeded", run.error
    assert {group.prompt for group in client.rewards(run.id)} <= set(train)
    assert {sample.prompt for sample in client.samples(run.id, kind="heldout")} <= set(heldout)
    provenance = next(client.attempts(run.id)).provenance
    assert provenance["prompts"]["train"] == hashlib.sha256("\n".join(train).encode()).hexdigest()

    for part in made:
        client.delete_prompt_set(part.name)
    with pytest.raises(ApiError) as refused:
        client.resume(run.id, max_steps=3)
    assert refused.value.code == "deleted_prompt_set"
