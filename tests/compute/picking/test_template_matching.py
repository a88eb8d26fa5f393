"""Template matching: its definition in float64, peaks by brute force, what references become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from turned_particles import BOX, particle, turned_micrograph

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map, write_stack
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking import templates
from relion_py.compute.picking.micrograph import Geometry, geometry_of
from relion_py.compute.picking.peaks import Peaks, find_peaks, prune_clusters, remove_crowded, work_area
from relion_py.compute.picking.references import References, ReferenceSettings, load_references, squared_distance
from relion_py.compute.picking.templates import Matcher, TemplateSettings

PIXEL = 2.0
RADIUS = 13


def references() -> References:
    image = np.where(squared_distance(BOX) < RADIUS**2, -particle(), 0)
    return References(image[None].astype(np.float32), RADIUS, 2 * RADIUS * PIXEL)


def by_definition(
    micrograph: np.ndarray, how: TemplateSettings, reference: np.ndarray, ctf: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Figures of merit and psi at every pixel, all in float64 and without any interpolation."""
    size, half = len(micrograph), len(micrograph) // 2
    image = (micrograph - micrograph.mean()) / micrograph.std(ddof=1)
    if how.highpass > 0:
        k = np.fft.fftfreq(size)
        shell = round(size * PIXEL / how.highpass)
        radius = np.hypot(k[:, None], k) * size
        rising = 0.5 - 0.5 * np.cos(np.pi * (np.clip(radius, shell - 1, shell + 1) - shell + 1) / 2)
        image = np.fft.ifft2(np.fft.fft2(image) * rising).real
    inside = squared_distance(BOX) < RADIUS**2
    # local mean and deviation of the background, by shifting the picture under the mask
    offsets = np.argwhere(~inside) - BOX // 2
    shifted = np.stack([np.roll(image, (-y, -x), (0, 1)) for y, x in offsets])
    mean, deviation = shifted.mean(0), shifted.std(0)
    k = np.fft.fftfreq(size) * size
    ky, kx = np.meshgrid(k, k, indexing="ij")
    limit = size * PIXEL / how.lowpass if how.lowpass > 0 else half - 0.5
    band = np.hypot(ky, kx) <= np.floor(limit + 0.5 if how.lowpass > 0 else limit)
    factor = band if ctf is None else band * ctf
    axis = np.arange(BOX) - BOX // 2
    best, psi_of, moments = np.full(image.shape, -np.inf), np.zeros(image.shape), None
    for psi in np.arange(0, 360, how.psi_step):
        c, s = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
        x, y = c * kx - s * ky, s * kx + c * ky
        waves_y = np.exp(-2j * np.pi * y.ravel()[:, None] * axis / size)
        waves_x = np.exp(-2j * np.pi * x.ravel()[:, None] * axis / size)
        transform = np.einsum("pi,ij,pj->p", waves_y, reference, waves_x, optimize=True).reshape(x.shape) * factor
        if moments is None:
            seen = np.fft.fftshift(np.fft.ifft2(transform).real)
            seen = seen[half - BOX // 2 : half + BOX // 2, half - BOX // 2 : half + BOX // 2][inside]
            moments = seen.sum() / (inside.sum() + 1), (seen**2).sum() / (inside.sum() + 1)
        cross = np.fft.ifft2(np.fft.fft2(image) * transform.conj()).real / inside.sum()
        psi_of[cross > best] = psi
        best = np.maximum(best, cross)
    first, second = moments
    exponent = (best - mean * first) / deviation - second / 2
    return (np.exp(exponent) - 1) / (np.exp(second / 2) - 1), psi_of


CTF = CtfParams(np.array([12000.0]), np.array([10500.0]), np.array([25.0]))


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        (TemplateSettings(psi_step=30, lowpass=9.0), True),
        (TemplateSettings(psi_step=30, lowpass=9.0, ctf=True, highpass=60.0), False),
        (TemplateSettings(psi_step=30, ctf=True, intact_first_peak=True), True),
        (TemplateSettings(psi_step=120, lowpass=6.0), False),  # an odd number of angles
        (TemplateSettings(psi_step=10, lowpass=9.0, ctf=True), True),  # by harmonics
        (TemplateSettings(psi_step=360 / 35, lowpass=12.0), True),
    ],
)
def test_figures_of_merit_by_their_definition(
    how: TemplateSettings, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:  # turned references that are made anew for every micrograph
        monkeypatch.setattr(templates, "_KEPT_REFERENCES", 0)
    image, _ = turned_micrograph((96, 96), seed=1)
    geometry = geometry_of(image.shape, PIXEL, how)
    assert geometry.work == 96
    ctf = None
    if how.ctf:
        ctf = ctf_image(CTF, 96, PIXEL, intact_first_peak=how.intact_first_peak)[0].astype(float)
        ctf = np.concatenate([ctf, ctf[-np.arange(96) % 96][:, 47:0:-1]], 1)  # the other half
    merit, psi = by_definition(image.astype(float), how, references().images[0].astype(float), ctf)
    matcher = Matcher(references(), geometry, how)
    assert bool(matcher.correlators) == (how.psi_step < 30)
    started = matcher.start(image.copy(), CTF, 0)
    (found,) = started.match(started.noise(matcher.noise_mask))
    assert np.abs(found.merit - merit).max() < 0.01 * merit.max()
    high = merit > 0.5 * merit.max()
    assert high.sum() >= 4
    # two angles may be nearly as good as each other, neighbours above all
    turn = np.abs((found.psi[high] - psi[high] + 180) % 360 - 180)
    assert np.mean(turn < 0.01) > (0.97 if how.psi_step >= 30 else 0.9)
    assert np.mean(turn < how.psi_step + 0.01) > 0.97


def test_a_shrunk_map_holds_every_second_pixel() -> None:
    """The cross-correlation has nothing beyond the resolution of the references."""
    image, _ = turned_micrograph((128, 128), seed=2)
    maps = []
    for shrink in (1.0, 0.5):
        how = TemplateSettings(psi_step=45, lowpass=10.0, shrink=shrink, optimise_scale=False)
        matcher = Matcher(references(), geometry_of(image.shape, PIXEL, how), how)
        started = matcher.start(image.copy(), None, 0)
        # the local deviation is low-passed, too: that of the large map serves for both
        noise = started.noise(matcher.noise_mask)
        if shrink == 1.0:
            whole = noise
        else:
            noise = templates.Noise(whole.mean[::2, ::2].copy(), whole.deviation[::2, ::2].copy())
        maps.append(next(started.match(noise)).merit)
    np.testing.assert_allclose(maps[1], maps[0][::2, ::2], atol=2e-4)


def test_known_places_and_angles() -> None:
    image, truth = turned_micrograph((240, 300), seed=3)
    how = TemplateSettings(psi_step=30, lowpass=9.0, shrink=0)
    geometry = geometry_of(image.shape, PIXEL, how)
    matcher = Matcher(references(), geometry, how)
    started = matcher.start(image, None, 0)
    (match,) = started.match(started.noise(matcher.noise_mask))
    everywhere = np.ones(match.merit.shape, bool)
    peaks = find_peaks(match.merit, match.psi, everywhere, work_area(geometry, BOX // 2), 0.3, True, 0)
    peaks = prune_clusters(peaks, RADIUS * geometry.scale, 20 * geometry.scale)
    top, left = geometry.corner
    x, y = peaks.column / geometry.scale - left, peaks.row / geometry.scale - top
    distance = np.hypot(truth[:, 0, None] - x, truth[:, 1, None] - y)
    assert distance.min(1).max() < 3.5  # a pixel at work is 2.25 of the micrograph
    assert len(peaks) == len(truth)
    turn = np.abs((peaks.psi[distance.argmin(1)] - truth[:, 2] + 180) % 360 - 180)
    assert np.mean(turn < 1) > 0.9 and turn.max() <= 30


def random_peaks(count: int, size: int, seed: int) -> Peaks:
    random = np.random.default_rng(seed)
    places = random.permutation(size * size)[:count]
    merit = random.permutation(count).astype(np.float32)
    return Peaks(places // size, places % size, merit, merit, np.zeros(count, np.int64))


def pruned_by_steps(peaks: Peaks, radius: float, distance: float) -> list[tuple[int, int]]:
    """The same, as one would do it by hand."""
    left = list(zip(peaks.row.tolist(), peaks.column.tolist(), peaks.merit.tolist(), strict=True))
    kept = []
    while left:
        cluster = [left.pop(0)]
        for one in cluster:
            near = [p for p in left if (p[0] - one[0]) ** 2 + (p[1] - one[1]) ** 2 < radius**2]
            cluster += near
            left = [p for p in left if p not in near]
        while cluster:
            best = max(cluster, key=lambda p: p[2])
            kept.append(best[:2])
            cluster = [p for p in cluster if (p[0] - best[0]) ** 2 + (p[1] - best[1]) ** 2 >= distance**2]
    return kept


@pytest.mark.parametrize(("radius", "distance"), [(5.0, 9.0), (5.0, 3.0), (2.0, 5.0), (1.5, 40.0)])
def test_clusters(radius: float, distance: float) -> None:
    peaks = random_peaks(150, 60, 1)
    kept = prune_clusters(peaks, radius, distance)
    assert list(zip(kept.row.tolist(), kept.column.tolist(), strict=True)) == pruned_by_steps(peaks, radius, distance)
    lonely = remove_crowded(kept, distance)
    for row, column in zip(kept.row, kept.column, strict=True):
        others = np.hypot(kept.row - row, kept.column - column)
        alone = np.sort(others)[1] > distance if len(kept) > 1 else True
        assert ((lonely.row == row) & (lonely.column == column)).any() == alone
    assert len(prune_clusters(random_peaks(0, 9, 1), 3, 3)) == len(remove_crowded(random_peaks(1, 9, 1), 3)) - 1 == 0


def test_peaks_are_no_lower_than_their_neighbours() -> None:
    merit = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    allowed = np.ones((40, 40), bool)
    allowed[:20] = False
    area = work_area(Geometry(40, 40, 1.0, 40), 3)
    for shrunk in (True, False):
        peaks = find_peaks(merit, merit, allowed, area, -0.5, shrunk, 4)
        expected = []
        for row in range(3, 37):
            for column in range(3, 37):
                beside = np.array([merit[row + y, column + x] for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))])
                high = merit[row, column] >= -0.5 and (beside <= merit[row, column]).all()
                if high and row >= 20 and (shrunk or (beside >= -0.5).all()):
                    expected.append((row, column))
        assert list(zip(peaks.row.tolist(), peaks.column.tolist(), strict=True)) == expected
        assert set(peaks.reference) == {4}


# ------------------------------------------------------------------------------------------ references


def test_references_at_the_pixel_size_of_the_micrographs(tmp_path: Path) -> None:
    """Twice as large pixels become twice as many, at half the height (particles were downscaled, then normalised)."""
    write_stack(tmp_path / "small.mrcs", np.stack([particle()] * 2).astype(np.float32), 4.0)
    listed = Table({"rlnReferenceImage": [f"{n:06d}@{tmp_path}/small.mrcs" for n in (1, 2)]})
    star.write(str(tmp_path / "refs.star"), StarFile([("", listed)]))
    # a STAR file's images tell their pixel size; a stack's are taken to have that of the micrographs
    how = ReferenceSettings(f"{tmp_path}/refs.star", diameter=96, invert=True)
    large = load_references(how, 2.0)
    assert large.images.shape == (2, 64, 64) and large.radius == 22
    assert load_references(ReferenceSettings(f"{tmp_path}/small.mrcs", diameter=40), 2.0).box == 32
    assert load_references(ReferenceSettings(f"{tmp_path}/small.mrcs", 4.0, 96), 2.0).box == 64
    inside = squared_distance(32) < 10**2
    np.testing.assert_allclose(-2 * large.images[0][::2, ::2][inside], particle()[inside], atol=0.02)
    assert not large.images[0][~large.inside()].any()
    small = load_references(ReferenceSettings(f"{tmp_path}/refs.star", diameter=96), 8.0)
    assert small.images.shape == (2, 16, 16)
    assert small.images.max() == pytest.approx(particle().max(), rel=0.2)


def test_the_diameter_that_references_show(tmp_path: Path) -> None:
    disc = (squared_distance(40) < 12**2).astype(np.float32)
    write_stack(tmp_path / "discs.mrcs", disc[None], 3.0)
    found = load_references(ReferenceSettings(str(tmp_path / "discs.mrcs"), pixel_size=3.0), 3.0)
    assert found.diameter == pytest.approx(3.0 * 23, abs=3.01)


def test_a_gaussian() -> None:
    blob = load_references(ReferenceSettings("gauss", diameter=100, gauss_max=0.2), 2.0)
    assert blob.box == 76 and blob.radius == 23
    assert blob.images[0][38, 38] == pytest.approx(0.2)
    assert blob.images[0][38, 38 + 12] == pytest.approx(0.2 * np.exp(-(12**2) / (2 * (76 / 6) ** 2)), rel=1e-5)


def test_projections_of_a_map(tmp_path: Path) -> None:
    """A map is seen from the directions of an asymmetric unit; along z that is its sum."""
    volume = np.zeros((32, 32, 32), np.float32)
    volume[12:20, 10:22, 13:19] = 1.0
    volume = np.asarray(volume)
    write_map(tmp_path / "box.mrc", volume, 2.0)
    found = load_references(ReferenceSettings(f"{tmp_path}/box.mrc", diameter=60, healpix_order=0), 2.0)
    assert found.projections is not None and found.projections.shape == (12, 32, 32)
    totals = found.projections.sum((1, 2))
    np.testing.assert_allclose(totals, volume.sum(), rtol=0.02)
    few = load_references(ReferenceSettings(f"{tmp_path}/box.mrc", diameter=60, healpix_order=0, symmetry="D2"), 2.0)
    assert len(few.images) == 4
    smooth = load_references(ReferenceSettings(f"{tmp_path}/box.mrc", diameter=60, healpix_order=0, lowpass=12), 2.0)
    assert smooth.images.std() < found.images.std()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"diameter": 200.0}, "larger than the box"),
        ({"diameter": 4.0}, "Nothing is left"),
        ({"source": "gauss"}, "--particle_diameter"),
        ({"source": "empty.mrcs", "diameter": 40.0}, "is empty within"),
        ({"source": "flat.mrcs"}, "not square"),
        ({"source": "list.star"}, "lists no references"),
        ({"diameter": 64.0, "shrink_mask": -40}, "no background"),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, change: dict, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_stack("refs.mrcs", particle()[None].astype(np.float32), 2.0)
    write_stack("empty.mrcs", np.zeros((1, 32, 32), np.float32), 2.0)
    write_stack("flat.mrcs", np.ones((2, 8, 16), np.float32), 2.0)
    star.write("list.star", StarFile([("", Table({"rlnMicrographName": ["a.mrc"]}))]))
    with pytest.raises(UserError, match=part):
        found = load_references(ReferenceSettings(**{"source": "refs.mrcs", **change}), 2.0)
        how = TemplateSettings()
        Matcher(found, geometry_of((96, 96), 2.0, how), how)
