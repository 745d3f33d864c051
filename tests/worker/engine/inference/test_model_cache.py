"""What is kept loaded between requests is let go when none comes, and is the same when one comes again."""

import gc
import json
import weakref

import pytest

from service.contracts.generations import GenerationSpec
from worker.engine.inference.generator import Generator
from worker.engine.inference.image_scorer import Scorer
from worker.engine.inference.model_cache import Warm, card_is_shared

SPEC = GenerationSpec(prompts=("a small red circle on white",), num_images=2, steps=2, width=32, height=32, seed=7)


def draw(generator: Generator) -> list[bytes]:
    return [image.png for image in generator.generate(SPEC, {"base": None})]


class TestLetGo:
    def test_a_model_is_gone_and_draws_the_same_when_it_is_back(self) -> None:
        warm = Warm()
        generator = Generator("cpu", warm)
        before = draw(generator)
        transformer = weakref.ref(generator.load(SPEC.model).transformer)

        assert warm.let_go(0.0) == [SPEC.model]

        assert transformer() is None
        assert draw(generator) == before

    def test_rewards_go_with_models(self) -> None:
        warm = Warm()
        scorer = Scorer("cpu", warm)
        Generator("cpu", warm).load(SPEC.model)
        [version] = scorer.versions(["shapes_verifier"])

        assert warm.let_go(0.0) == [SPEC.model, "shapes_verifier"]

        assert warm.let_go(0.0) == []
        assert scorer.versions(["shapes_verifier"]) == [version]

    def test_a_request_in_progress_keeps_what_it_uses(self) -> None:
        warm = Warm()
        generator = Generator("cpu", warm)
        with warm.in_use():
            model = generator.load(SPEC.model)
            with warm.in_use():
                assert warm.let_go(0.0) == []
            assert warm.let_go(0.0) == []
            assert generator.load(SPEC.model) is model

        assert warm.let_go(0.0) == [SPEC.model]

    def test_what_is_being_loaded_is_not_let_go(self) -> None:
        warm, tried = Warm(), []

        def load() -> str:
            tried.append(warm.let_go(0.0))
            return "loaded"

        get_one(warm, "a")
        assert warm.get(str, json.dumps({"name": "b"}), load, len) == "loaded"
        assert tried == [[]]
        assert warm.let_go(0.0) == ["a", "b"]

    def test_idle_time_begins_when_a_request_ends(self) -> None:
        now = 1000.0
        warm = Warm(clock=lambda: now)
        with warm.in_use():
            get_one(warm, "a")
            now += 300

        now += 299
        assert warm.let_go(300) == []
        now += 1
        assert warm.let_go(300) == ["a"]

    def test_what_did_not_load_to_its_end_goes_too(self) -> None:
        class Part:
            whole: "Part"

        warm, parts = Warm(), []

        def load() -> str:
            part = Part()
            part.whole = part
            parts.append(weakref.ref(part))
            raise MemoryError

        gc.disable()
        try:
            with pytest.raises(MemoryError):
                warm.get(str, json.dumps({"name": "a"}), load, len)
            assert parts[0]() is not None

            assert warm.let_go(0.0) == []
        finally:
            gc.enable()

        assert parts[0]() is None

    def test_a_request_that_fails_has_ended_too(self) -> None:
        warm = Warm()

        @warm.in_use()
        def fail() -> None:
            get_one(warm, "a")
            raise ValueError

        for _ in range(2):
            with pytest.raises(ValueError):
                fail()
            assert warm.let_go(0.0) == ["a"]


def get_one(warm: Warm, name: str) -> str:
    return warm.get(str, json.dumps({"name": name}), lambda: name, len)


def test_without_cuda_there_is_no_card() -> None:
    assert card_is_shared() is None
