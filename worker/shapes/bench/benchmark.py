"""The benchmark's prompts over the ten dimensions, with their test points. The prompts are excluded from training."""

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, Point, fingerprint
from worker.shapes.bench.caption_sampling import RECIPES, Part, prompts
from worker.shapes.grammar import parse
from worker.shapes.testpoints import points

SEED = 77
COUNTS = dict.fromkeys(RECIPES, 12) | {"style": 24, "world": 24, "matching": 14, "text": 28}
"""Number of prompts by recipe. A dimension that has only one recipe gets more prompts."""


def benchmark() -> Benchmark:
    """Build `shapes-bench`. The result is always the same."""
    texts = [
        (recipe, text)
        for seed, (recipe, count) in enumerate(COUNTS.items(), SEED)
        for text in prompts(count, Part.BENCHMARK, seed, recipe)
    ]
    found = tuple(_prompt(index, recipe, text) for index, (recipe, text) in enumerate(texts))
    return Benchmark(
        name="shapes-bench",
        title="The shapes world's benchmark, verified from pixels",
        language="en",
        length="short",
        file="shapes_bench.json",
        data_sha256=fingerprint([prompt.model_dump(mode="json") for prompt in found]),
        pinned=True,
        prompts=found,
        judge=None,
    )


def _prompt(index: int, recipe: str, text: str) -> BenchmarkPrompt:
    sentence = parse(text)
    return BenchmarkPrompt(
        index=index,
        text=text,
        category="Shapes",
        subcategory=recipe,
        subject=f"{len(sentence.phrases)} kinds of objects" if len(sentence.phrases) > 1 else "one kind of object",
        sentence_structure=sentence.form.value,
        points=tuple(
            Point(name=one.dimension, dimension=one.dimension, description=one.description) for one in points(sentence)
        ),
    )
