"""The comparison grid: a row per prompt and seed, a column per checkpoint. Pillow is imported when one is asked for."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_MARGIN, _GAP, _SMALLEST, _LABEL_WIDTH, _FONT = 12, 6, 128, 220, 14
_INK, _PAPER, _MISSING = (30, 30, 30), (255, 255, 255), (225, 225, 225)


class GridTooLarge(ValueError):
    """The grid would have more pixels than allowed."""


@dataclass(frozen=True)
class Row:
    """One row: its label and one PNG per column, None where there is none."""

    label: str
    pictures: Sequence[bytes | None]


def draw(columns: Sequence[str], rows: Sequence[Row], width: int, height: int, max_pixels: int) -> bytes:
    """A PNG of all pictures with their labels. Pictures under 128 pixels are enlarged by whole pixels.

    `width` and `height` are those of a picture. Raises GridTooLarge before anything is drawn.
    """
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, -(-_SMALLEST // min(width, height)))
    cell_width, cell_height = width * factor, height * factor
    top = _MARGIN + 2 * _FONT
    left = _MARGIN + _LABEL_WIDTH + _GAP
    size = (
        left + len(columns) * (cell_width + _GAP) + _MARGIN,
        top + len(rows) * (cell_height + _GAP) + _MARGIN,
    )
    if size[0] * size[1] > max_pixels:
        raise GridTooLarge(f"the grid would be {size[0]}x{size[1]} pixels, more than the {max_pixels} allowed")
    canvas = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_FONT)
    for column, label in enumerate(columns):
        centre = left + column * (cell_width + _GAP) + cell_width // 2
        pen.text((centre, _MARGIN), label, fill=_INK, font=font, anchor="ma")
    for index, row in enumerate(rows):
        y = top + index * (cell_height + _GAP)
        lines = textwrap.wrap(row.label, 28)[: max(1, cell_height // (_FONT + 4))]
        pen.multiline_text((_MARGIN, y), "\n".join(lines), fill=_INK, font=font, spacing=3)
        for column, data in enumerate(row.pictures):
            x = left + column * (cell_width + _GAP)
            if data is None:
                pen.rectangle((x, y, x + cell_width, y + cell_height), fill=_MISSING)
                continue
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                enlarged = picture.convert("RGB").resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (x, y))
    drawn = io.BytesIO()
    canvas.save(drawn, "PNG")
    return drawn.getvalue()
