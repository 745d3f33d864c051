"""Galleries of images and their test points, from one or several evaluations, as HTML or PNG."""

import base64
import hashlib
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from service.api.evaluations import image_grid, results
from service.api.evaluations.schemas import GalleryQuery
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.db.artifacts import ArtifactStore
from service.db.evaluation_scores import full_benchmark_of, is_newest
from service.db.models import Evaluation, EvaluationAnswer, EvaluationImage
from service.http.errors import NotAcceptable, NotFound, invalid
from service.jobs import views

_IMAGES = 4
"""The default number of images per prompt for a single evaluation."""
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #1e1e1e; background: #fff; }
table { border-collapse: collapse; }
th, td { padding: 6px; text-align: left; vertical-align: top; }
td:first-child { max-width: 24em; }
img { display: block; image-rendering: pixelated; }
ul { list-style: none; margin: 4px 0 0; padding: 0; }
.met { color: #0072b2; }
.unmet { color: #a33c00; }
.unknown, small { color: #666; }
"""
_SHA256 = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; img-src data:; style-src 'sha256-{_SHA256}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Restrict the page to its own images and style, regardless of the content of prompts."""
_MARKS = {1: ("met", "✓"), 0: ("unmet", "✗"), None: ("unknown", "?")}


@dataclass(frozen=True)
class GalleryImage:
    """An image with a score for each test point.

    The scores are None if the image has not been judged or the judge's answer is unreadable.
    """

    key: str
    sha256: str
    seed: int
    scores: tuple[int | None, ...]


@dataclass(frozen=True)
class GalleryRow:
    """A prompt with one image per column, or None where an image is missing."""

    prompt: BenchmarkPrompt
    images: tuple[GalleryImage | None, ...]
    seeds: str
    """The seeds to print, or an empty string if each column is a seed."""


@dataclass(frozen=True)
class Gallery:
    """The content of a gallery, before it is rendered."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[GalleryRow, ...]
    width: int
    height: int
    """`width` and `height` are the maximum dimensions of the images in pixels."""


def gallery(session: Session, id: uuid.UUID, query: GalleryQuery, max_pixels: int) -> Gallery:
    """Collect the selected images.

    A single evaluation has one column per seed; several evaluations have one column each. Raises NotFound, Invalid, and
    NotAcceptable if the images would have too many pixels.
    """
    evaluations = _evaluations(session, id, query)
    single = len(evaluations) == 1
    prompts = _prompts(session, evaluations, query)
    available = min(int(row.spec["num_images"]) for row in evaluations)
    numbers = range(min(available, query.images or (_IMAGES if single else 1)))
    width, height = (max(row.spec[side] for row in evaluations) for side in ("width", "height"))
    pixels = len(prompts) * len(numbers) * len(evaluations) * width * height
    pixels *= image_grid.enlargement(width, height) ** 2
    if pixels > max_pixels:
        raise NotAcceptable(
            f"The gallery would have {pixels} pixels; at most {max_pixels} are allowed. Request fewer images"
        )
    labels = results.labels(session, [row.id for row in evaluations])
    columns = tuple(labels[row.id] for row in evaluations)
    title = columns[0] if single else f"{len(columns)} evaluations side by side"
    found = [_images(session, row.id, prompts, len(numbers)) for row in evaluations]
    if single:
        columns = tuple(f"seed {evaluations[0].spec['seed'] + number}" for number in numbers)
        rows = [GalleryRow(prompt, tuple(found[0].get((prompt.index, n)) for n in numbers), "") for prompt in prompts]
    else:
        rows = []
        for prompt in prompts:
            for number in numbers:
                images = tuple(of_one.get((prompt.index, number)) for of_one in found)
                seeds = ", ".join(map(str, sorted({image.seed for image in images if image is not None})))
                rows.append(GalleryRow(prompt, images, seeds and f"seed {seeds}"))
    return Gallery(f"{evaluations[0].spec['benchmark']}: {title}", columns, tuple(rows), width, height)


def html(content: Gallery, artifacts: ArtifactStore) -> Iterator[str]:
    """Yield an HTML page without scripts or external files, reading one image at a time.

    Raises ArtifactDamaged, StoreUnavailable.
    """
    title = escape(content.title)
    yield '<!doctype html>\n<html><head><meta charset="utf-8">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<table><thead><tr><th></th>"
    yield from (f'<th dir="auto">{escape(column)}</th>' for column in content.columns)
    yield "</tr></thead><tbody>\n"
    for row in content.rows:
        details = ", ".join(filter(None, (f"prompt {row.prompt.index}", row.seeds)))
        yield f'<tr><td dir="auto">{escape(row.prompt.text)}<br><small>{details}</small></td>'
        for image in row.images:
            yield f"<td>{'' if image is None else _cell(content, row.prompt, image, artifacts)}</td>"
        yield "</tr>\n"
    yield "</tbody></table></body></html>\n"


def png(content: Gallery, artifacts: ArtifactStore, max_pixels: int) -> bytes:
    """Draw the images as a PNG grid. Raises GridTooLarge, ArtifactDamaged, StoreUnavailable."""
    rows = []
    for row in content.rows:
        points = "\n".join(f"{number}. {point.name}" for number, point in enumerate(row.prompt.points, 1))
        seeds = f" ({row.seeds})" if row.seeds else ""
        images = [partial(artifacts.read, image.key, image.sha256) if image else None for image in row.images]
        rows.append(
            image_grid.Row(
                f"{row.prompt.text}{seeds}\n{points}", images, [image.scores if image else () for image in row.images]
            )
        )
    return image_grid.draw(content.columns, rows, content.width, content.height, max_pixels)


def _cell(content: Gallery, prompt: BenchmarkPrompt, image: GalleryImage, artifacts: ArtifactStore) -> str:
    data = base64.b64encode(artifacts.read(image.key, image.sha256)).decode()
    factor = image_grid.enlargement(content.width, content.height)
    size = f'width="{content.width * factor}" height="{content.height * factor}"'
    points = []
    for point, score in zip(prompt.points, image.scores, strict=True):
        kind, sign = _MARKS[score]
        attributes = f'class="{kind}" title="{escape(point.description)}" dir="auto"'
        points.append(f"<li {attributes}>{sign} {escape(point.name)}</li>")
    alternative = escape(f"{prompt.text}, seed {image.seed}")
    return f'<img {size} alt="{alternative}" src="data:image/png;base64,{data}"><ul>{"".join(points)}</ul>'


def _evaluations(session: Session, id: uuid.UUID, query: GalleryQuery) -> list[Evaluation]:
    found = [views.find(session, Evaluation, id)]
    for position, other in enumerate(query.others):
        loc = ("query", "with", position)
        if other == id:
            raise invalid(loc, f"Evaluation {id} is already in the path; list only other evaluations", "duplicate")
        row = session.get(Evaluation, other)
        if row is None:
            raise invalid(loc, f"Evaluation {other} not found", "unknown_name")
        results.check_same_benchmark(session, found[0], row, loc)
        found.append(row)
    return found


def _prompts(session: Session, evaluations: Sequence[Evaluation], query: GalleryQuery) -> list[BenchmarkPrompt]:
    """Select prompts that all evaluations have in common, sorted by index.

    They are those in the query or a random sample of `count` prompts. Raises Invalid if a requested prompt is not
    available, and NotFound if no prompt matches.
    """
    by_index = {prompt.index: prompt for prompt in full_benchmark_of(session, evaluations[0]).prompts}
    common = set(by_index).intersection(*(row.prompts for row in evaluations))
    if query.dimension:
        common &= {index for index, _ in results.points_of(by_index.values(), query.dimension)}
    if query.index:
        for position, index in enumerate(query.index):
            if index not in common:
                msg = f"Prompt {index} is not in all of these evaluations, or has no such test point"
                raise invalid(["query", "index", position], msg, "unknown_prompt")
        common = set(query.index)
    elif len(common) > query.count:
        common = set(random.Random(query.seed).sample(sorted(common), query.count))  # noqa: S311 - not a secret
    if not common:
        raise NotFound("These evaluations share no prompt with a test point of the requested dimension")
    return [by_index[index] for index in sorted(common)]


def _images(
    session: Session, id: uuid.UUID, prompts: Sequence[BenchmarkPrompt], count: int
) -> dict[tuple[int, int], GalleryImage]:
    """Return the first `count` images of each prompt with their newest scores, by prompt index and image number."""
    points = {prompt.index: len(prompt.points) for prompt in prompts}
    columns = ("evaluation_id", "index", "image_index")
    same = [getattr(EvaluationAnswer, column) == getattr(EvaluationImage, column) for column in columns]
    query = (
        select(EvaluationImage, EvaluationAnswer.scores)
        .outerjoin(EvaluationAnswer, and_(*same, is_newest()))
        .where(EvaluationImage.evaluation_id == id, EvaluationImage.index.in_(points))
        .where(EvaluationImage.image_index < count)
    )
    return {
        (row.index, row.image_index): GalleryImage(
            row.key, row.sha256, row.seed, tuple(scores or [None] * points[row.index])
        )
        for row, scores in session.execute(query)
    }
