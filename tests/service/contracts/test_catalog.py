"""Derived properties of catalog entries."""

import pytest

from service.contracts.catalog import load_catalog


@pytest.mark.parametrize(
    ("width", "height", "shift"), [(720, 720, 2.224), (1024, 1024, 3.158), (256, 256, 1.649), (1024, 512, 2.233)]
)
def test_the_shift_of_flux_dev_depends_on_the_size(width: int, height: int, shift: float) -> None:
    assert load_catalog().model("flux-1-dev").own_shift(width, height) == pytest.approx(shift, abs=0.001)


def test_the_shift_of_other_models_is_the_catalogs() -> None:
    assert load_catalog().model("shapes-flux").own_shift(32, 16) == 3.0
