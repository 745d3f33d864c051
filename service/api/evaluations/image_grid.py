"""A grid of labelled images: a row per prompt, a column per checkpoint. Pillow is imported when one is asked for."""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_MARGIN, _GAP, _SMALLEST, _LABEL_WIDTH, _FONT = 12, 6, 128, 220, 13
_LINE, _LETTERS, _MARK, _MARK_FONT = _FONT + 5, 28, 20, 12
"""Pixels of a line of a label, its letters, and the side of a mark with the size of its number."""
_INK, _PAPER, _MISSING, _MET = (30, 30, 30), (255, 255, 255), (225, 225, 225), (0, 114, 178)

Mark = bool | None
"""Whether an image meets a test point; None: nobody can say."""
PngReader = Callable[[], bytes]
"""Reads the PNG once it is to be drawn, so that a large grid has one image in memory and not all."""


class GridTooLarge(ValueError):
    """The grid would have more pixels than allowed."""


@dataclass(frozen=True)
class Row:
    """One row: its label, a PNG per column or None where there is none, and an image's marks below it."""

    label: str
    images: Sequence[PngReader | None]
    marks: Sequence[Sequence[Mark]] = ()


def enlargement(width: int, height: int) -> int:
    """By how much an image of that size is enlarged, so that it has 128 pixels at least."""
    return max(1, -(-_SMALLEST // min(width, height)))


def draw(columns: Sequence[str], rows: Sequence[Row], width: int, height: int, max_pixels: int) -> bytes:
    """A PNG of all images with their labels. Images under 128 pixels are enlarged by whole pixels.

    `width` and `height` are those of an image. A mark is the number of a test point, from 1: on a filled square where
    it is met, struck out where it is not, grey where nobody can say. Raises GridTooLarge before anything is drawn.
    """
    from PIL import Image, ImageDraw

    factor = enlargement(width, height)
    cell_width, cell_height = width * factor, height * factor
    top = _MARGIN + 2 * _FONT
    left = _MARGIN + _LABEL_WIDTH + _GAP
    labels = [_wrapped(row.label) for row in rows]
    heights = [
        max(cell_height + _marks_height(row, cell_width), _LINE * len(lines) if row.marks else 0)
        for row, lines in zip(rows, labels, strict=True)
    ]
    size = (
        left + len(columns) * (cell_width + _GAP) + _MARGIN,
        top + sum(heights) + len(rows) * _GAP + _MARGIN,
    )
    if size[0] * size[1] > max_pixels:
        raise GridTooLarge(f"the grid would be {size[0]}x{size[1]} pixels, more than the {max_pixels} allowed")
    canvas = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(canvas)
    font = _font(_FONT)
    for column, label in enumerate(columns):
        centre = left + column * (cell_width + _GAP) + cell_width // 2
        pen.text((centre, _MARGIN), _fitting(label, cell_width), fill=_INK, font=font, anchor="ma")
    y = top
    for row, lines, row_height in zip(rows, labels, heights, strict=True):
        shown = "\n".join(lines[: max(1, row_height // _LINE)])
        pen.multiline_text((_MARGIN, y), shown, fill=_INK, font=font, spacing=3)
        for column, image in enumerate(row.images):
            x = left + column * (cell_width + _GAP)
            if image is None:
                pen.rectangle((x, y, x + cell_width, y + cell_height), fill=_MISSING)
                continue
            with Image.open(io.BytesIO(image()), formats=["PNG"]) as opened:
                enlarged = opened.convert("RGB").resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (x, y))
            if row.marks:
                _draw_marks(pen, row.marks[column], x, y + cell_height + _GAP, cell_width)
        y += row_height + _GAP
    drawn = io.BytesIO()
    canvas.save(drawn, "PNG")
    return drawn.getvalue()


def _wrapped(label: str) -> list[str]:
    return [line for paragraph in label.splitlines() for line in textwrap.wrap(paragraph, _LETTERS)]


def _fitting(label: str, width: int) -> str:
    most = max(8, width // 7)
    return label if len(label) <= most else label[: most - 1] + "…"


def _marks_height(row: Row, width: int) -> int:
    most = max(map(len, row.marks), default=0)
    return _GAP + _MARK * -(-most // (width // _MARK)) if most else 0


def _draw_marks(pen: "ImageDraw.ImageDraw", marks: Sequence[Mark], left: int, top: int, width: int) -> None:
    font = _font(_MARK_FONT)
    for place, met in enumerate(marks):
        line, column = divmod(place, width // _MARK)
        x, y = left + column * _MARK, top + line * _MARK
        box = (x, y, x + _MARK - 4, y + _MARK - 4)
        fill = {True: _MET, False: _PAPER, None: _MISSING}[met]
        pen.rectangle(box, fill=fill, outline=_INK if met is False else fill)
        centre = (x + (_MARK - 4) // 2, y + (_MARK - 4) // 2)
        pen.text(centre, str(place + 1), fill=_PAPER if met else _INK, font=font, anchor="mm")
        if met is False:
            pen.line((box[0], box[3], box[2], box[1]), fill=_INK)


def _font(size: int) -> "FreeTypeFont":
    """Matplotlib's DejaVu Sans, found without importing matplotlib: Pillow's own font has not all letters of G²RPO."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
