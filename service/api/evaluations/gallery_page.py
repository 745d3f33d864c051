"""A gallery as one HTML page that needs nothing else, and as one PNG."""

import base64
import hashlib
from collections.abc import Iterator
from functools import partial
from html import escape

from service.api.evaluations import image_grid
from service.api.evaluations.gallery import Gallery, Line, Shown
from service.db.artifacts import ArtifactStore

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
"""The page may show its own images in its own style, and nothing else, whatever a prompt says."""
_SAID = {1: ("met", "✓"), 0: ("unmet", "✗"), None: ("unknown", "?")}


def html(shown: Gallery, artifacts: ArtifactStore) -> Iterator[str]:
    """The page, image by image. Raises ArtifactDamaged, StoreUnavailable."""
    title = escape(shown.title)
    yield '<!doctype html>\n<html><head><meta charset="utf-8">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<table><thead><tr><th></th>"
    yield from (f'<th dir="auto">{escape(column)}</th>' for column in shown.columns)
    yield "</tr></thead><tbody>\n"
    for line in shown.lines:
        seeds = f", seed {line.seeds}" if line.seeds and not shown.alone else ""
        about = f"<br><small>prompt {line.prompt.index}{seeds}</small>"
        yield f'<tr><td dir="auto">{escape(line.prompt.text)}{about}</td>'
        for image in line.images:
            yield f"<td>{'' if image is None else _cell(shown, line, image, artifacts)}</td>"
        yield "</tr>\n"
    yield "</tbody></table></body></html>\n"


def png(shown: Gallery, artifacts: ArtifactStore, max_pixels: int) -> bytes:
    """The image. Raises GridTooLarge, ArtifactDamaged, StoreUnavailable."""
    rows = []
    for line in shown.lines:
        points = "\n".join(f"{place}. {point.name}" for place, point in enumerate(line.prompt.points, 1))
        marks = [[None if score is None else bool(score) for score in one.scores] if one else [] for one in line.images]
        images = [partial(artifacts.read, one.key, one.sha256) if one else None for one in line.images]
        seeds = f" (seed {line.seeds})" if line.seeds and not shown.alone else ""
        rows.append(image_grid.Row(f"{line.prompt.text}{seeds}\n{points}", images, marks))
    return image_grid.draw(shown.columns, rows, shown.width, shown.height, max_pixels)


def _cell(shown: Gallery, line: Line, image: Shown, artifacts: ArtifactStore) -> str:
    data = base64.b64encode(artifacts.read(image.key, image.sha256)).decode()
    factor = image_grid.enlargement(shown.width, shown.height)
    size = f'width="{shown.width * factor}" height="{shown.height * factor}"'
    points = []
    for point, score in zip(line.prompt.points, image.scores, strict=True):
        kind, sign = _SAID[score]
        described = f'class="{kind}" title="{escape(point.description)}" dir="auto"'
        points.append(f"<li {described}>{sign} {escape(point.name)}</li>")
    alternative = escape(f"{line.prompt.text}, seed {image.seed}")
    return f'<img {size} alt="{alternative}" src="data:image/png;base64,{data}"><ul>{"".join(points)}</ul>'
