"""Draw a grid of labeled images, with a row per prompt and a column per checkpoint or evaluation."""

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

_MARGIN, _GAP, _MIN_SIDE, _LABEL_WIDTH, _FONT_SIZE = 12, 6, 128, 220, 13
_LINE, _LETTERS, _MARK, _MARK_FONT_SIZE = _FONT_SIZE + 5, 28, 20, 12
"""The height of a label line in pixels, letters per line, side of a mark in pixels, and font size of its number."""
_BLACK, _WHITE, _GRAY, _BLUE = (30, 30, 30), (255, 255, 255), (225, 225, 225), (0, 114, 178)

PngReader = Callable[[], bytes]
"""Reads a PNG. It is called immediately before use, so that only one image at a time is in memory."""


class GridTooLarge(ValueError):
    """The grid would have more pixels than allowed."""


@dataclass(frozen=True)
class Row:
    """A row of the grid: a label, one PNG per column (or None if missing), and the scores of each image's test points.

    A score is None if it is unknown.
    """

    label: str
    images: Sequence[PngReader | None]
    scores: Sequence[Sequence[int | None]] = ()


def enlargement(width: int, height: int) -> int:
    """Return the integer factor that enlarges an image to at least 128 pixels per side."""
    return max(1, -(-_MIN_SIDE // min(width, height)))


def draw(columns: Sequence[str], rows: Sequence[Row], width: int, height: int, max_pixels: int) -> bytes:
    """Draw all images with their labels and return the grid as PNG.

    `width` and `height` are the size of one image. Images with a side shorter than 128 pixels are enlarged by an
    integer factor. Below each image, every test point has a numbered square, starting at 1: filled if the point is met,
    struck out if not, gray if unknown. Raises GridTooLarge before reading any PNG.
    """
    from PIL import Image, ImageDraw

    factor = enlargement(width, height)
    cell_width, cell_height = width * factor, height * factor
    marks_per_line = cell_width // _MARK
    top, left = _MARGIN + 2 * _FONT_SIZE, _MARGIN + _LABEL_WIDTH + _GAP
    labels = [[text for line in row.label.splitlines() for text in textwrap.wrap(line, _LETTERS)] for row in rows]
    heights = []
    for row, lines in zip(rows, labels, strict=True):
        max_marks = max(map(len, row.scores), default=0)
        marks_height = _GAP + _MARK * -(-max_marks // marks_per_line) if max_marks else 0
        heights.append(max(cell_height + marks_height, _LINE * len(lines) if row.scores else 0))
    size = (left + len(columns) * (cell_width + _GAP) + _MARGIN, top + sum(heights) + len(rows) * _GAP + _MARGIN)
    if size[0] * size[1] > max_pixels:
        raise GridTooLarge(f"The grid would have {size[0]}x{size[1]} pixels; at most {max_pixels} are allowed")
    canvas = Image.new("RGB", size, _WHITE)
    pen = ImageDraw.Draw(canvas)
    font, mark_font = _font(_FONT_SIZE), _font(_MARK_FONT_SIZE)
    max_letters = max(8, cell_width // 7)
    for column, label in enumerate(columns):
        center = left + column * (cell_width + _GAP) + cell_width // 2
        text = label if len(label) <= max_letters else label[: max_letters - 1] + "…"
        pen.text((center, _MARGIN), text, fill=_BLACK, font=font, anchor="ma")
    y = top
    for row, lines, row_height in zip(rows, labels, heights, strict=True):
        text = "\n".join(lines[: max(1, row_height // _LINE)])
        pen.multiline_text((_MARGIN, y), text, fill=_BLACK, font=font, spacing=3)
        for column, read in enumerate(row.images):
            x = left + column * (cell_width + _GAP)
            if read is None:
                pen.rectangle((x, y, x + cell_width, y + cell_height), fill=_GRAY)
                continue
            with Image.open(io.BytesIO(read()), formats=["PNG"]) as image:
                enlarged = image.convert("RGB").resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (x, y))
            pen.rectangle(
                (x - 1, y - 1, x + cell_width, y + cell_height), outline=_GRAY
            )  # shows where white images end
            for number, score in enumerate(row.scores[column] if row.scores else ()):
                line, position = divmod(number, marks_per_line)
                corner = (x + position * _MARK, y + cell_height + _GAP + line * _MARK)
                _draw_mark(pen, mark_font, corner, number + 1, score)
        y += row_height + _GAP
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _draw_mark(
    pen: "ImageDraw.ImageDraw", font: "FreeTypeFont", corner: tuple[int, int], number: int, score: int | None
) -> None:
    x, y = corner
    side = _MARK - 4
    fill = {1: _BLUE, 0: _WHITE, None: _GRAY}[score]
    pen.rectangle((x, y, x + side, y + side), fill=fill, outline=_BLACK if score == 0 else fill)
    center = (x + side // 2, y + side // 2)
    pen.text(center, str(number), fill=_WHITE if score else _BLACK, font=font, anchor="mm")
    if score == 0:
        pen.line((x, y + side, x + side, y), fill=_BLACK)


def _font(size: int) -> "FreeTypeFont":
    """Load DejaVu Sans from matplotlib's files without importing matplotlib.

    Pillow's default font lacks the superscript in G²RPO.
    """
    from PIL import ImageFont

    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
