"""A run trains on prompts uploaded over HTTP."""

import hashlib
from typing import Any

import pytest

from service.client import ApiError, Client


def test_a_run_trains_on_the_uploaded_prompts(client: Client, sent: Any) -> None:
    (_, train), (_, heldout) = sent.train, sent.heldout
    assert [len(train), len(heldout)] == [8, 4]
    assert {group.prompt for group in client.rewards(sent.run.id)} <= set(train)
    assert {sample.prompt for sample in client.samples(sent.run.id, kind="heldout")} <= set(heldout)
    provenance = next(client.attempts(sent.run.id)).provenance
    assert provenance["prompts"]["train"] == hashlib.sha256("\n".join(train).encode()).hexdigest()


def test_a_used_prompt_set_is_not_deleted_and_a_deleted_one_prevents_resuming(client: Client, sent: Any) -> None:
    assert sent.refusals == ["in_use", "in_use"]
    for name, _ in (sent.train, sent.heldout):
        client.delete_prompt_set(name)
    with pytest.raises(ApiError) as raised:
        client.resume(sent.run.id, max_steps=3)
    assert raised.value.code == "deleted_prompt_set"
