"""Cached models are released when idle, and give the same results after they are loaded again."""

import gc
import json
import weakref

import pytest

from service.contracts.generations import GenerationSpec
from worker.engine.inference.generator import Generator
from worker.engine.inference.image_scorer import ImageScorer
from worker.engine.inference.model_cache import ModelCache, device_is_shared

SPEC = GenerationSpec(prompts=("a small red circle on white",), num_images=2, steps=2, width=32, height=32, seed=7)


def draw(generator: Generator) -> list[bytes]:
    return [image.png for image in generator.generate(SPEC, {"base": None})]


class TestLetGo:
    def test_reloaded_model_generates_the_same_image(self) -> None:
        cache = ModelCache()
        generator = Generator("cpu", cache)
        before = draw(generator)
        transformer = weakref.ref(generator.load(SPEC.model).transformer)

        assert cache.release(0.0) == [SPEC.model]

        assert transformer() is None
        assert draw(generator) == before

    def test_rewards_are_released_with_models(self) -> None:
        cache = ModelCache()
        scorer = ImageScorer("cpu", cache)
        Generator("cpu", cache).load(SPEC.model)
        [version] = scorer.versions(["shapes_verifier"])

        assert cache.release(0.0) == [SPEC.model, "shapes_verifier"]

        assert cache.release(0.0) == []
        assert scorer.versions(["shapes_verifier"]) == [version]

    def test_request_in_progress_keeps_its_models(self) -> None:
        cache = ModelCache()
        generator = Generator("cpu", cache)
        with cache.in_use():
            model = generator.load(SPEC.model)
            with cache.in_use():
                assert cache.release(0.0) == []
            assert cache.release(0.0) == []
            assert generator.load(SPEC.model) is model

        assert cache.release(0.0) == [SPEC.model]

    def test_loading_model_is_not_released(self) -> None:
        cache, tried = ModelCache(), []

        def load() -> str:
            tried.append(cache.release(0.0))
            return "loaded"

        get_one(cache, "a")
        assert cache.get(str, json.dumps({"name": "b"}), load, len) == "loaded"
        assert tried == [[]]
        assert cache.release(0.0) == ["a", "b"]

    def test_idle_time_begins_when_a_request_ends(self) -> None:
        now = 1000.0
        cache = ModelCache(clock=lambda: now)
        with cache.in_use():
            get_one(cache, "a")
            now += 300

        now += 299
        assert cache.release(300) == []
        now += 1
        assert cache.release(300) == ["a"]

    def test_partially_loaded_model_is_released(self) -> None:
        class Part:
            whole: "Part"

        cache, parts = ModelCache(), []

        def load() -> str:
            part = Part()
            part.whole = part
            parts.append(weakref.ref(part))
            raise MemoryError

        gc.disable()
        try:
            with pytest.raises(MemoryError):
                cache.get(str, json.dumps({"name": "a"}), load, len)
            assert parts[0]() is not None

            assert cache.release(0.0) == []
        finally:
            gc.enable()

        assert parts[0]() is None

    def test_failed_request_counts_as_ended(self) -> None:
        cache = ModelCache()

        @cache.in_use()
        def fail() -> None:
            get_one(cache, "a")
            raise ValueError

        for _ in range(2):
            with pytest.raises(ValueError):
                fail()
            assert cache.release(0.0) == ["a"]


def get_one(cache: ModelCache, name: str) -> str:
    return cache.get(str, json.dumps({"name": name}), lambda: name, len)


def test_shared_device_is_unknown_without_cuda() -> None:
    assert device_is_shared() is None
