"""Images of scenes: shape, value range, and dependence on the seed."""

import torch

from worker.shapes.caption_sampling import train_prompts
from worker.shapes.grammar import parse
from worker.shapes.render import BACKGROUND_PALETTE, GAP, HALF_EXTENT, MARGIN, encode, place, render

SCENES = [parse(text) for text in train_prompts()[:300]]


class TestRender:
    def test_images_are_in_range(self) -> None:
        images = render(SCENES)
        assert images.shape == (300, 3, 32, 32)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1

    def test_seed_decides_the_places(self) -> None:
        assert torch.equal(render(SCENES, 1), render(SCENES, 1))
        assert not torch.equal(render(SCENES, 1), render(SCENES, 2))

    def test_corners_show_the_background(self) -> None:
        backgrounds = BACKGROUND_PALETTE[encode(SCENES)[:, -1]]
        corners = render(SCENES)[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(dim=2).values
        assert torch.equal(corners, backgrounds)


class TestPlace:
    def test_objects_keep_clear_of_the_edge_and_each_other(self) -> None:
        draws = torch.rand(2000, 6, generator=torch.Generator().manual_seed(0))
        encoded = encode(SCENES).repeat(7, 1)[:2000]
        placed = place(encoded, draws)
        # A missing object has the position of the first object and no extent.
        extent = torch.where(placed.shape < 0, 0.0, placed.radius * HALF_EXTENT[placed.shape.clamp(min=0)])
        assert (placed.center - extent[:, :, None] >= MARGIN - 1e-4).all()
        assert (placed.center + extent[:, :, None] <= 32 - MARGIN + 1e-4).all()
        two = placed.shape[:, 1] >= 0
        apart = (placed.center[two, 0] - placed.center[two, 1]).abs().max(dim=1).values
        assert (apart >= extent[two].sum(dim=1) + GAP - 1e-4).all()
