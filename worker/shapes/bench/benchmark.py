"""The benchmark itself: prompts over the ten dimensions, none of them for training, with their test points."""

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, Point, fingerprint
from worker.shapes.bench.grammar import parse
from worker.shapes.bench.points import points
from worker.shapes.bench.sampling import RECIPES, Part, distinct

NAME = "shapes-bench"
FILE = "shapes_bench.json"
SEED = 77
PROMPTS = dict.fromkeys(RECIPES, 12) | {"style": 24, "world": 24, "matching": 14, "text": 28}
"""By recipe; a dimension with one recipe alone has more of it."""


def benchmark() -> Benchmark:
    """`shapes-bench`, the same every time."""
    found: list[BenchmarkPrompt] = []
    for place, (recipe, count) in enumerate(PROMPTS.items()):
        for text in distinct(count, Part.BENCHMARK, SEED + place, recipe):
            found.append(_prompt(len(found), recipe, text))
    prompts = tuple(found)
    return Benchmark(
        name=NAME,
        title="The shapes world's benchmark, verified from pixels",
        language="en",
        length="short",
        file=FILE,
        data_sha256=fingerprint([prompt.model_dump(mode="json") for prompt in prompts]),
        pinned=True,
        prompts=prompts,
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
