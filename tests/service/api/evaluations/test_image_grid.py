"""The frame around the images of a grid."""

import io

from PIL import Image

from service.api.evaluations.image_grid import Row, draw


def test_a_white_image_has_a_frame() -> None:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), "white").save(file, "PNG")
    grid = Image.open(io.BytesIO(draw([""], [Row("", [file.getvalue])], 128, 128, 10**7)))
    pixels = [(x, y) for x in range(grid.width) for y in range(grid.height) if grid.getpixel((x, y)) != (255, 255, 255)]
    columns, rows = zip(*pixels, strict=True)
    assert len(pixels) == 4 * 129
    assert (max(columns) - min(columns), max(rows) - min(rows)) == (129, 129)
