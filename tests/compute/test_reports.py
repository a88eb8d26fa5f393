"""The PDF logs of programs: what is on their pages."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from relion_py.compute.ctf.report import write_report as write_ctf_report
from relion_py.compute.ctf_refine.micrographs import Micrograph
from relion_py.compute.ctf_refine.report import write_report as write_refined_report
from relion_py.compute.ctf_refine.results import Picture, Results
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import LocalShifts, MovieMotion, fit
from relion_py.compute.motion.report import write_report as write_motion_report
from relion_py.compute.polish.bfactors import FrameFactors
from relion_py.compute.polish.report import MicrographTracks
from relion_py.compute.polish.report import write_report as write_polish_report
from relion_py.compute.post.local_resolution import write_histogram
from relion_py.compute.post.postprocess import Correlations, Settings, Sharpened
from relion_py.compute.post.postprocess_output import write_log
from relion_py.compute.post.sharpening import NO_AMPLITUDE, LineFit


def streams(path: Path, beginning: bytes) -> list[bytes]:
    """Contents of the streams whose entries begin so."""
    content = path.read_bytes()
    found = re.finditer(b"<< " + beginning + rb"/Length (\d+) /Filter /FlateDecode >>\nstream\n", content)
    return [zlib.decompress(content[one.end() : one.end() + int(one[1])]) for one in found]


def pages(path: Path) -> list[str]:
    """The operators of each page."""
    return [one.decode("latin-1") for one in streams(path, b"")]


def paths(page: str, colour: str) -> list[np.ndarray]:
    """Lines of one colour (n, 2)."""
    drawn = [line for line in page.splitlines() if f" w {colour} RG" in line and not line.startswith("q 1 J")]
    return [np.array(re.findall(r"([\d.-]+) ([\d.-]+) [ml]", one), float) for line in drawn for one in whole(line)]


def whole(line: str) -> list[str]:
    """Each line that a path begins."""
    return re.findall(r"[\d.-]+ [\d.-]+ m(?: [\d.-]+ [\d.-]+ l)+", line)


def test_tracks_of_movies(tmp_path: Path) -> None:
    shifts = np.array([[0.0, 0.0], [2.0, -1.0], [3.0, 4.0]])
    frame, x = np.tile([1, 2, 3], 2), np.repeat([25.0, 75.0], 3)
    local = LocalShifts(frame, x, np.full(6, 50.0), 0.1 * frame, -0.2 * frame)
    model = fit(frame - 1.0, x / 100 - 0.5, np.zeros(6) - 0.25, np.stack([local.shift_x, local.shift_y]))
    motions = [MovieMotion(f"m{i}.tiff", 100, 200, shifts) for i in range(13)]
    motions[0].local, motions[0].model = local, model
    micrographs = Table({"rlnAccumMotionTotal": np.arange(13.0)})
    write_motion_report(str(tmp_path / "log.pdf"), micrographs, motions)
    statistics, first, second = pages(tmp_path / "log.pdf")
    assert statistics.count("(Motion, all frames \\(px\\)) Tj") == 2
    assert "(Motion correction: 13 micrographs) Tj" in statistics
    tracks = paths(first, "0 0 1")
    assert len(tracks) == 12 and len(paths(second, "0 0 1")) == 1 and "(m12.tiff) Tj" in second
    moved = np.diff(tracks[0], axis=0) / np.diff(shifts, axis=0)  # rows count downwards
    np.testing.assert_allclose(moved, moved[0, 0] * np.array([[1, -1], [1, -1]]), atol=0.02)
    assert moved[0, 0] > 0
    assert len(paths(first, "0.75 0.75 0.75")) == len(paths(first, "0 0 0")) == 2
    write_motion_report(str(tmp_path / "log.pdf"), micrographs, motions, tracks=False)
    assert len(pages(tmp_path / "log.pdf")) == 1


def test_the_poorest_fits_are_shown(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{i}.ctf") for i in range(14)]
    for i in (0, 13):
        write_map(names[i], np.random.default_rng(i).normal(size=(32, 32)).astype(np.float32), 1.0)
    table = Table(
        {
            "rlnMicrographName": [f"mic{i}.mrc" for i in range(14)],
            "rlnCtfImage": [name + ":mrc" for name in names],
            "rlnCtfMaxResolution": np.arange(14.0),
            "rlnDefocusU": np.full(14, 1e4),
        }
    )
    write_ctf_report(str(tmp_path / "log.pdf"), table)
    curves, pictures = pages(tmp_path / "log.pdf")
    assert curves.count("(Defocus U \\(A\\)) Tj") == 2
    shown = re.findall(r"\((mic\d+).mrc\) Tj", pictures)
    assert shown == [f"mic{i}" for i in range(13, 1, -1)], "the poorest twelve, the worst first"
    assert pictures.count(" Do Q") == 1, "files that are missing leave a gap"
    assert b"/Width 16 /Height 16 " in (tmp_path / "log.pdf").read_bytes()


def test_frames_and_tracks_of_polishing(tmp_path: Path) -> None:
    factors = FrameFactors(np.array([60.0, 40.0, 30.0]), np.array([1.0, 0.9, 0.7]), 256, 1.0)
    tracks = np.array([[[0.0, 0.0], [1.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]])
    one = MicrographTracks("a.mrc", (400.0, 300.0), np.array([[100.0, 100.0], [200.0, 150.0]]), tracks)
    write_polish_report(str(tmp_path / "log.pdf"), factors, 2, [one] * 7)
    first, second, third = pages(tmp_path / "log.pdf")
    (bfactors, scales) = paths(first, "0.12 0.47 0.71")
    assert np.corrcoef(bfactors[:, 1], factors.bfactors())[0, 1] > 1 - 1e-6
    assert np.corrcoef(scales[:, 1], np.log(factors.scale))[0, 1] > 1 - 1e-6
    assert len(paths(second, "0 0 0")) == 12 and len(paths(third, "0 0 0")) == 2
    step = np.diff(paths(third, "0 0 0")[0], axis=0)
    assert step[0, 0] > 1 and abs(step[0, 1] + 2 * step[0, 0]) < 0.03, "rows count downwards"
    mean = paths(third, "0 0 1")[0]
    np.testing.assert_allclose(np.diff(mean, axis=0)[0], [0.5 * step[0, 0], -1.5 * step[0, 0]], atol=0.03)


def test_local_resolutions(tmp_path: Path) -> None:
    resolution = np.linspace(3, 5, 1000).reshape(10, 10, 10).astype(np.float32)
    write_histogram(str(tmp_path / "some.pdf"), resolution, np.ones_like(resolution))
    assert "median 4.00 A" in pages(tmp_path / "some.pdf")[0]
    write_histogram(str(tmp_path / "none.pdf"), resolution, np.zeros_like(resolution))
    (page,) = pages(tmp_path / "none.pdf")
    assert "median" not in page and "(voxels) Tj" in page and " rg " not in page


def test_curves_of_post_processing(tmp_path: Path) -> None:
    curve = np.linspace(1.0, -0.1, 33)
    guinier = {"in": np.where(np.arange(33) < 30, np.linspace(9, 1, 33), NO_AMPLITUDE), "sharpened": np.ones(33)}
    sharpened = Sharpened(np.zeros(1, np.float32), -50.0, 0.0, LineFit(-12.5, 9.0, 1.0), guinier)
    settings = Settings(angpix=1.5)
    write_log(str(tmp_path / "plain.pdf"), Correlations(64, curve, curve, 4.5, 4.4), sharpened, settings)
    fsc, plots = pages(tmp_path / "plain.pdf")
    assert "(Final resolution = 4.50 A) Tj" in fsc and "(unmasked) Tj" in fsc and "(masked) Tj" not in fsc
    (line, _) = paths(fsc, "0 0 0")[-2:]  # the last one is in the legend
    assert len(line) == 33 and np.corrcoef(line[:, 1], curve)[0, 1] > 1 - 1e-6
    assert "(original) Tj" in plots and "(MTF corrected) Tj" not in plots and "(fit) Tj" in plots
    assert max(len(one) for one in paths(plots, "0 0 0")) == 30, "no amplitudes, no line"
    masked = Correlations(64, curve, 0.9 * curve, 4.5, 4.4, masked=curve, random_masked=0.5 * curve)
    write_log(str(tmp_path / "masked.pdf"), masked, sharpened, settings)
    fsc = pages(tmp_path / "masked.pdf")[0]
    for name in ("corrected", "unmasked", "masked", "masked, phases randomised"):
        assert f"({name}) Tj" in fsc


def test_pictures_and_places_of_refined_ctfs(tmp_path: Path) -> None:
    path, n = tmp_path / "log.pdf", 30
    defocus = np.full(n, 1e4)
    before = CtfParams(defocus, defocus, np.zeros(n))
    after = CtfParams(defocus + np.arange(n), defocus + np.arange(n), np.zeros(n))
    image = np.array([[-2.0, 0.0], [2.0, np.nan]], np.float32)
    results = Results(after, [Picture("Tilt", (("observed", image, 2.0),))])
    x, y = np.arange(n) * 10.0, np.arange(n) ** 2 * 1.0
    rows = Table({"rlnCoordinateX": x, "rlnCoordinateY": y, "rlnImageName": [f"{i + 1}@a.mrcs" for i in range(n)]})
    table = ParticleTable(StarFile({"optics": Table({"rlnOpticsGroup": [1]}), "particles": rows}))
    write_refined_report(str(path), table, before, results, [Micrograph("a.mrc", "a", np.arange(n))], ["defocus_u"])
    picture, histogram, places = pages(path)
    assert "(Tilt) Tj" in picture and "(observed) Tj" in picture
    entries = rb"/Type /XObject /Subtype /Image /Width 2 /Height 2 /ColorSpace /DeviceRGB /BitsPerComponent 8 "
    (colours,) = streams(path, entries)
    red, blue, white = (103, 0, 31), (5, 48, 97), (247, 247, 247)
    assert colours == bytes([*red, *white, *blue, *white]), "the first row at the bottom; white where nothing is known"
    assert "(CTF refinement: 30 particles) Tj" in histogram and "(particles) Tj" in histogram
    assert "(range 29 A) Tj" in places
    dots = re.findall(r"^q 1 J 3 w ([\d.]+) ([\d.]+) ([\d.]+) RG (.*) S Q$", places, re.M)
    found = np.array(
        [(a, b, r) for r, _, _, marks in dots for a, b in re.findall(r"([\d.]+) ([\d.]+) m", marks)], float
    )
    found = found[np.argsort(found[:, 0])]
    assert len(found) == n and np.corrcoef(found[:, 1], y)[0, 1] > 1 - 1e-6
    np.testing.assert_allclose(found[:, 2], np.arange(n) / 29, atol=0.026)
    write_refined_report(str(path), table, before, Results(after), [], [])
    assert "(CTF refinement: nothing was fitted) Tj" in pages(path)[0]
