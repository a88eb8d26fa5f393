"""Where tracks start from, their files, and the frames that particles are cut from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc
from relion_py.compute.io.movies import MovieError
from relion_py.compute.motion.model import NOT_OBSERVED, LocalModel, MovieMotion
from relion_py.compute.polish.frames import FrameReader, centres, cut_transforms, movie_box
from relion_py.compute.polish.micrographs import Geometry
from relion_py.compute.polish.tracks import Correlations, read_tracks, tracks_of_movie, write_tracks

SHIFTS = np.array([[0.0, 0.0], [1.0, -2.0], [NOT_OBSERVED, NOT_OBSERVED], [3.0, -4.0]])


def motion(**changes: object) -> MovieMotion:
    coefficients = np.zeros((2, 18))
    coefficients[0, 3] = 0.5  # x shift grows with x and time
    return MovieMotion("m.mrcs", 40, 20, SHIFTS, model=LocalModel(coefficients), pixel_size=1.0, **changes)  # type: ignore[arg-type]


def test_tracks_start_where_motion_correction_has_seen_them():
    """A particle is seen at minus the shift; frames left out keep the last whole-frame shift."""
    geometry = Geometry(0, 3, 1.0, 2.0, 1.0)  # coordinates in pixels of 2 A
    tracks = tracks_of_movie(motion(), np.array([20.0, 0.0]), np.array([3.0, 3.0]), geometry, 4.0)
    # places over width, less 0.5: 0.5 and -0.5; local shifts 0.25 and -0.25 pixels a frame
    expected = -np.array([[[0, 0], [1.25, -2], [1, -2], [3.75, -4]], [[0, 0], [0.75, -2], [1, -2], [2.25, -4]]])
    np.testing.assert_allclose(tracks, expected / 4.0)
    whole = tracks_of_movie(motion(), np.array([20.0]), np.array([3.0]), geometry, 1.0, local=False)
    np.testing.assert_allclose(whole[0, 3], [-3, 4])


def test_local_motion_of_binned_movies_is_scaled():
    geometry = Geometry(0, 1, 1.0, 1.0, 1.0)
    tracks = tracks_of_movie(motion(binning=2.0), np.array([40.0]), np.array([0.0]), geometry, 1.0)
    np.testing.assert_allclose(tracks[0, 1], [-1.5, 2.0])


def test_files_of_tracks_and_correlations(tmp_path):
    tracks = np.random.default_rng(0).normal(size=(3, 5, 2))
    path = str(tmp_path / "m_tracks.star")
    write_tracks(path, tracks)
    np.testing.assert_allclose(read_tracks(path), tracks, atol=1e-5)
    text = (tmp_path / "m_tracks.star").read_text()
    assert "_rlnParticleNumber" in text and "data_2\n" in text
    (tmp_path / "m_tracks.star").write_text(text[: text.index("data_2")])
    with pytest.raises(UserError, match="not a whole file of tracks"):
        read_tracks(path)
    rng = np.random.default_rng(1)
    some = Correlations(*(rng.uniform(1, 2, (5, 9)) for _ in range(3)))
    some.write(str(tmp_path / "m"), 1.0)
    again = Correlations.read(str(tmp_path / "m"))
    np.testing.assert_allclose(again.cross, some.cross, rtol=1e-6)
    np.testing.assert_allclose(again.normalised(), some.cross / np.sqrt(some.power * some.predicted), rtol=1e-6)
    again.add(Correlations(*(np.full((5, 9), np.nan) for _ in range(3))))
    assert np.isfinite(again.cross).all()


def test_frames_are_corrected_mended_and_inverted(tmp_path):
    rng = np.random.default_rng(2)
    raw = rng.uniform(10, 20, (2, 20, 40)).astype(np.float32)
    raw[1, 4, 7] = 1e6
    gain = rng.uniform(0.5, 1.5, (20, 40)).astype(np.float32)
    gain[11, 30] = 0
    mrc.write_stack(tmp_path / "m.mrcs", raw, 1.0)
    mrc.write_map(tmp_path / "gain.mrc", gain, 1.0)
    (tmp_path / "bad.txt").write_text("0 0 1 2\n")
    movie = MovieMotion(
        str(tmp_path / "m.mrcs"), 40, 20, np.zeros((2, 2)), gain=str(tmp_path / "gain.mrc"),
        defects=str(tmp_path / "bad.txt"), hot_pixels=np.array([[7, 4]]),
    )  # fmt: skip
    with FrameReader().open(movie) as frames:
        frame = frames.read(1)
    expected = -raw[1] * gain
    bad = np.zeros((20, 40), bool)
    bad[11, 30] = bad[4, 7] = bad[0, 0] = bad[1, 0] = True
    np.testing.assert_allclose(frame[~bad], expected[~bad], rtol=1e-6)
    for y, x in np.argwhere(bad):
        near = expected[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert np.isclose(near, frame[y, x]).any() and frame[y, x] < -4
    with FrameReader(hot=15.0).open(movie) as frames:
        np.testing.assert_allclose(frames.read(0)[~bad], -(np.minimum(raw[0], 15) * gain)[~bad], rtol=1e-6)
    movie.size_x = 38
    with pytest.raises(MovieError, match="in motion correction it had"), FrameReader().open(movie):
        pass


def test_frames_of_electron_events(tmp_path):
    """Readouts are summed as in motion correction; values are counts, so that nothing is clipped."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))
    from movie_files import eer_page, write_eer

    pages = [eer_page([(n, 2, 0, 0), (5, n, 0, 0)], 16, 16, 7) for n in range(6)]
    write_eer(tmp_path / "m.eer", pages, 16, 16)
    movie = MovieMotion(str(tmp_path / "m.eer"), 16, 16, np.zeros((3, 2)), eer_grouping=2, eer_upsampling=1)
    with FrameReader(hot=0.5).open(movie) as frames:
        found = np.array([frames.read(n) for n in range(3)])
    for frame, first in zip(found, (0, 2, 4), strict=True):
        expected = np.zeros((16, 16))
        for n in (first, first + 1):
            expected[2, n] -= 1
            expected[n, 5] -= 1
        np.testing.assert_array_equal(frame, expected)


def test_boxes_are_cut_where_extraction_cuts_them():
    """Whole pixels of the particles first; pixels outside a frame have the value of the nearest inside."""
    at = centres(np.array([10.7, 0.4]), np.array([5.2, 19.9]), 1.0, 2.0, 1.0)
    assert at.tolist() == [[10, 4], [0, 18]]
    assert movie_box(64, 2.0, 1.0) == 128
    frame = np.arange(800, dtype=np.float32).reshape(20, 40)
    ((rows, transforms),) = list(cut_transforms(frame, at, 8, 8))
    assert rows == slice(0, 2)
    images = np.fft.irfft2(transforms, (8, 8)) * 64
    box = frame[0:8, 6:14]
    np.testing.assert_allclose(images[0], box - box.mean(), atol=1e-3)
    edge = frame[np.clip(np.arange(14, 22), 0, 19)][:, np.clip(np.arange(-4, 4), 0, 39)]
    np.testing.assert_allclose(images[1], edge - edge.mean(), atol=1e-3)
