"""References by angular harmonics: what is left out, groups, and a stop on the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from turned_particles import BOX, particle, turned_micrograph

from relion_py.compute.errors import Aborted
from relion_py.compute.picking import templates
from relion_py.compute.picking.harmonics import LEFT_OUT, Basis, make_basis
from relion_py.compute.picking.micrograph import geometry_of
from relion_py.compute.picking.references import References, squared_distance
from relion_py.compute.picking.templates import Matcher, TemplateSettings

PIXEL = 2.0
RADIUS = 13
CUTOFF = PIXEL / 9.0


def references() -> References:
    inside = squared_distance(BOX) < RADIUS**2
    images = np.stack([particle(), particle().T, particle()[::-1, ::-1] - particle().T / 2])
    return References(np.where(inside, -images, 0).astype(np.float32), RADIUS, 2 * RADIUS * PIXEL)


def rebuilt(basis: Basis, number: int, k: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """The transform of a reference at polar coordinates, from what the basis keeps of it."""
    out = np.zeros(k.shape, complex)
    at = k * basis.density
    base = at.astype(int)
    for mix in basis.mixes:
        maps = basis.tables[mix.maps].astype(complex)
        values = maps[:, base] + (maps[:, base + 1] - maps[:, base]) * (at - base)
        factors = mix.matrix[number].reshape(-1, 2)
        if mix.order == 0:
            out += factors[:, 0] @ values.real + factors[:, 1] @ values.imag  # two real functions in each
            continue
        wave = (factors @ [1, 1j]) @ values.conj() * np.exp(1j * mix.order * phi)
        out += wave + (-1) ** mix.order * wave.conj()  # A_{-m} of a real image
    return out


def test_no_reference_lacks_more_than_the_bound() -> None:
    """Against transforms summed up in float64 at points that are on no grid of the basis."""
    images = references().images
    basis = make_basis(images, RADIUS, CUTOFF)
    random = np.random.default_rng(0)
    k = CUTOFF * np.sqrt(random.random(3000))  # evenly over the disc
    phi = np.pi * random.random(3000)
    axis = np.arange(BOX) - BOX // 2
    waves_y = np.exp(-2j * np.pi * (k * np.sin(phi))[:, None] * axis)
    waves_x = np.exp(-2j * np.pi * (k * np.cos(phi))[:, None] * axis)
    lacking = []
    for number, image in enumerate(images.astype(float)):
        known = np.einsum("py,yx,px->p", waves_y, image, waves_x, optimize=True)
        lacking.append(np.sum(np.abs(known - rebuilt(basis, number, k, phi)) ** 2) / np.sum(np.abs(known) ** 2))
    assert max(lacking) < 1.1 * LEFT_OUT  # points at random
    assert max(lacking) > 0.1 * LEFT_OUT  # and it does leave out what it may
    assert len(basis) < len(images) * (basis.orders.max() + 1)  # references share functions


@pytest.mark.parametrize("step", [10.0, 7.2, 14.4])  # with right angles, with opposite ones only, with neither
def test_groups_and_turned_references_give_the_same(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One basis, several in little memory, and a transform for every angle: the same cross-correlations."""
    image, _ = turned_micrograph((96, 96), seed=4)
    how = TemplateSettings(psi_step=step, lowpass=9.0)
    geometry = geometry_of(image.shape, PIXEL, how)
    outcomes, groups = [], []
    for setting, value in (("_MOST_MAPS", 2**30), ("_MOST_MAPS", 20 * 96 * 96 * 8), ("_FEW_ANGLES", 1000)):
        monkeypatch.setattr(templates, setting, value)
        matcher = Matcher(references(), geometry, how)
        groups.append(len(matcher.correlators))
        started = matcher.start(image.copy(), None, 0)
        outcomes.append(list(started.match(started.noise(matcher.noise_mask))))
    assert groups == [1, 3, 0]
    for one, several, turned in zip(*outcomes, strict=True):
        high = turned.merit > 0.3
        for found in (one, several):
            assert found.expected == turned.expected
            assert np.abs(found.merit - turned.merit).max() < 0.012 * turned.merit.max()
            assert np.mean(found.psi[high] == turned.psi[high]) > 0.9 or high.sum() < 10


@pytest.mark.parametrize("harmonics", [True, False])
def test_an_area_is_that_part_of_the_whole(harmonics: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not harmonics:
        monkeypatch.setattr(templates, "_FEW_ANGLES", 1000)
    image, _ = turned_micrograph((96, 96), seed=4)
    how = TemplateSettings(psi_step=10.0, lowpass=9.0)
    matcher = Matcher(references(), geometry_of(image.shape, PIXEL, how), how)
    assert bool(matcher.correlators) == harmonics
    started = matcher.start(image, None, 0)
    noise = started.noise(matcher.noise_mask)
    whole = list(started.match(noise))
    area = slice(17, 71), slice(3, 40)
    for one, part in zip(whole, started.match(noise, area=area), strict=True):
        assert part.merit.shape == one.merit.shape
        np.testing.assert_allclose(part.merit[area], one.merit[area], rtol=1e-3, atol=1e-6)
        assert np.mean(part.psi[area] == one.psi[area]) > 0.99  # rounding may choose between two that are as good


def test_a_stop_ends_matching() -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    how = TemplateSettings(psi_step=10.0, lowpass=9.0)
    matcher = Matcher(references(), geometry_of(image.shape, PIXEL, how), how)
    assert matcher.correlators
    started, stop = matcher.start(image, None, 0), threading.Event()
    stop.set()
    with pytest.raises(Aborted):
        next(started.match(started.noise(matcher.noise_mask), stop))
