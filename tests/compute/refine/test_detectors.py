"""Particles of different detectors: each image is seen as by the mean of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.errors import UserError
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.preparation import ImagePreparation

BOX, PIXEL, RAW = 24, 3.0, 1.5
CURVES = {"good.star": (1.0, 0.8), "poor.star": (1.0, 0.2)}


def preparation(mtfs: list[str]) -> ImagePreparation:
    groups = [SimpleNamespace(name=f"g{n}", mtf=mtf, original_pixel_size=RAW) for n, mtf in enumerate(mtfs)]
    particles = SimpleNamespace(
        table=SimpleNamespace(optics_groups=groups), nr_groups=1, optics_group=np.arange(4) % len(groups)
    )
    geometry = ImageGeometry.of(BOX, PIXEL, BOX, PIXEL)
    aberrations = [Aberrations(odd=(0.0, 0.4 * n)) for n in range(len(groups))]
    return ImagePreparation(RefineOptions(), particles, None, None, None, [geometry] * len(groups), aberrations, 50.0)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, values in CURVES.items():
        table = Table({"rlnResolutionInversePixel": ["0", "0.5"], "rlnMtfValue": [str(v) for v in values]})
        star.write(name, StarFile([("mtf", table)]))


def test_images_are_divided_by_their_detector_over_the_mean() -> None:
    pixels, index = DiscPixels.of_size(20), np.arange(4)
    rng = np.random.default_rng(1)
    images = (rng.normal(size=(4, pixels.size)) + 1j * rng.normal(size=(4, pixels.size))).astype(np.complex64)
    plain, found = images.copy(), images.copy()
    preparation(["", ""]).undo_optics(index, pixels, CpuBackend(), plain)
    several = preparation(list(CURVES))
    several.undo_optics(index, pixels, CpuBackend(), found)
    # the curves fall linearly to 0.5 per raw pixel
    frequency = np.hypot(pixels.kx, pixels.ky) / (BOX * PIXEL) * RAW
    curves = np.array([1.0 - (1.0 - end) * frequency / 0.5 for _, end in CURVES.values()])
    wanted = plain * (curves.mean(axis=0) / curves)[index % 2]
    np.testing.assert_allclose(found, wanted, rtol=2e-5)
    several.undo_optics(index, pixels, CpuBackend(), found, again=True)
    np.testing.assert_allclose(found, images, rtol=2e-5)


def test_one_detector_is_left_to_post_processing() -> None:
    assert preparation(["poor.star", "poor.star"]).detectors == []


def test_a_detector_that_is_not_known_is_told() -> None:
    with pytest.raises(UserError, match='"g1" lacks _rlnMtfFileName'):
        preparation(["good.star", ""])
