"""Movies, gain references and defect files, against other readers and against what was written."""

from __future__ import annotations

import bz2
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import imagecodecs
import mrcfile
import numpy as np
import pytest
import tifffile
from movie_files import eer_page, write_eer

from relion_py.compute.errors import UserError
from relion_py.compute.io.movies import open_movie, read_defects, read_gain, turn_gain, unpack_nibbles
from relion_py.compute.io.mrc import write_map

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_tiff_is_read_upside_down(tmp_path: Path, compression: str | None, dtype: str) -> None:
    frames = RNG.integers(0, 100, (4, 30, 40)).astype(dtype)
    tifffile.imwrite(tmp_path / "m.tiff", frames, compression=compression, photometric="minisblack")
    with open_movie(str(tmp_path / "m.tiff")) as movie:
        assert (movie.n_frames, movie.shape) == (4, (30, 40))
        for index in (3, 0):
            found = movie.frame(index)
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found, frames[index, ::-1])


def test_packed_4_bit_tiff(tmp_path: Path) -> None:
    pixels = np.zeros((7420, 7676), np.uint8)  # the size tells that it is packed
    pixels[::7, ::5] = RNG.integers(0, 16, pixels[::7, ::5].shape)
    packed = pixels[:, 0::2] | pixels[:, 1::2] << 4
    tifffile.imwrite(tmp_path / "m.tif", packed, compression="lzw")
    with open_movie(str(tmp_path / "m.tif")) as movie:
        assert movie.shape == pixels.shape
        np.testing.assert_array_equal(movie.frame(0), pixels[::-1])
    assert unpack_nibbles(np.array([[0x21]], np.uint8)).tolist() == [[1, 2]]


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32", "float16"])
def test_mrc_stacks(tmp_path: Path, dtype: str) -> None:
    frames = RNG.integers(0, 100, (3, 20, 30)).astype(dtype)
    with mrcfile.new(tmp_path / "m.mrcs") as file:
        file.set_data(frames)
    with open_movie(str(tmp_path / "m.mrcs")) as movie:
        assert (movie.n_frames, movie.shape) == (3, (20, 30))
        np.testing.assert_array_equal(movie.frame(2), frames[2])


@pytest.mark.parametrize(("compression", "run_bits"), [(65000, 8), (65001, 7)])
@pytest.mark.parametrize("upsampling", [1, 2])
def test_eer_against_imagecodecs(tmp_path: Path, compression: int, run_bits: int, upsampling: int) -> None:
    width, height = 64, 48
    pages = []
    # few electrons make runs that do not fit into 7 bits; of 8 bits imagecodecs reads none like RELION
    numbers = (200, 300, 150, 400, 250) if run_bits == 8 else (5, 40, 0, 300, 7)
    for n in numbers:
        places = RNG.choice(width * height, n, replace=False)
        events = [(int(p) % width, int(p) // width, *RNG.integers(-2, 2, 2).tolist()) for p in places]
        pages.append(eer_page(events, width, height, run_bits))
    write_eer(tmp_path / "m.eer", pages, width, height, compression)
    size = (height * upsampling, width * upsampling)
    expected = [imagecodecs.eer_decode(p, size, run_bits, 2, 2, superres=upsampling - 1) for p in pages]
    with open_movie(str(tmp_path / "m.eer"), eer_grouping=2, eer_upsampling=upsampling) as movie:
        assert (movie.n_frames, movie.shape) == (2, size)
        for frame in range(2):
            wanted = np.sum(expected[2 * frame : 2 * frame + 2], axis=0, dtype=int)
            assert wanted.sum() == sum(numbers[2 * frame : 2 * frame + 2])
            np.testing.assert_array_equal(movie.frame(frame), wanted)


@pytest.mark.parametrize(("compression", "run_bits"), [(65000, 8), (65001, 7)])
def test_eer_electrons_lie_where_they_were_put(tmp_path: Path, compression: int, run_bits: int) -> None:
    events = [(0, 0, -2, 1), (63, 20, 0, -1), (5, 47, 1, 0)]  # with full runs between them
    write_eer(tmp_path / "m.eer", [eer_page(events, 64, 48, run_bits)], 64, 48, compression)
    with open_movie(str(tmp_path / "m.eer"), 1, 2) as movie:
        found = np.argwhere(movie.frame(0))
    # the first half of a pixel is that of -2 and -1
    assert found.tolist() == [[1, 0], [40, 127], [95, 11]]


def test_eer_with_one_bit_per_position(tmp_path: Path) -> None:
    events = [(0, 0, -1, 0), (9, 20, 0, -1), (5, 47, 0, 0)]
    page = eer_page(events, 64, 48, 7, 1)
    write_eer(tmp_path / "m.eer", [page], 64, 48, 65002)
    with open_movie(str(tmp_path / "m.eer"), 1, 2) as movie:
        found = movie.frame(0)
    assert np.argwhere(found).tolist() == [[1, 0], [40, 19], [95, 11]]
    np.testing.assert_array_equal(found, imagecodecs.eer_decode(page, (96, 128), 7, 1, 1, superres=1))


def test_damaged_eer_readout_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = eer_page([(3, 2, 0, 0)], 16, 16, 7)
    write_eer(tmp_path / "m.eer", [good, b"\x7f\xff", good], 16, 16)
    with open_movie(str(tmp_path / "m.eer"), eer_grouping=3) as movie:
        assert movie.frame(0).sum() == 2
    assert "readout 2 is damaged" in capfd.readouterr().err


def test_eer_gain(tmp_path: Path) -> None:
    write_eer(tmp_path / "m.eer", [eer_page([], 16, 16, 7)] * 3, 16, 16)
    values = RNG.uniform(0.5, 2, (16, 16)).astype(np.float32)
    values[3, 4] = 0
    write_map(tmp_path / "gain.mrc", values, 1.0)
    tifffile.imwrite(tmp_path / "falcon.tif", values)
    (tmp_path / "falcon.tif").rename(tmp_path / "falcon.gain")
    with open_movie(str(tmp_path / "m.eer"), 1, 1) as movie:
        divided = read_gain(str(tmp_path / "gain.mrc"), movie)
        assert divided[3, 4] == 0
        np.testing.assert_allclose(divided[5], values.mean() / values[5], rtol=1e-5)
        np.testing.assert_array_equal(read_gain(str(tmp_path / "falcon.gain"), movie), values)
    with open_movie(str(tmp_path / "m.eer"), 1, 2) as movie:
        fine = read_gain(str(tmp_path / "falcon.gain"), movie)
        np.testing.assert_array_equal(fine[1::2, 0::2], values)


@pytest.mark.parametrize("rotation", range(4))
@pytest.mark.parametrize("flip", range(3))
def test_turned_gain(rotation: int, flip: int) -> None:
    gain = RNG.standard_normal((3, 5)).astype(np.float32)
    expected = gain
    for _ in range(rotation):  # image_op.h, rotate90: (y, x) goes to (x, ny - 1 - y)
        turned = np.empty(expected.shape[::-1], np.float32)
        for y in range(expected.shape[0]):
            for x in range(expected.shape[1]):
                turned[x, expected.shape[0] - 1 - y] = expected[y, x]
        expected = turned
    expected = {0: expected, 1: np.flipud(expected), 2: np.fliplr(expected)}[flip]
    np.testing.assert_array_equal(turn_gain(gain, rotation, flip), expected)


@pytest.mark.parametrize("kind", ["bz2", "xz", "zst"])
def test_packed_mrc(tmp_path: Path, kind: str) -> None:
    frames = RNG.integers(0, 100, (4, 40, 64)).astype(np.int8)
    plain = tmp_path / "m.mrcs"
    with mrcfile.new(plain) as file:
        file.set_data(frames)
    path = tmp_path / f"m.mrcs.{kind}"
    if kind == "zst":
        if not shutil.which("zstd"):
            pytest.skip("zstd is not installed")
        subprocess.run(["zstd", "-q", plain, "-o", path], check=True)
    else:
        path.write_bytes({"bz2": bz2, "xz": lzma}[kind].compress(plain.read_bytes()))
    plain.unlink()
    with open_movie(str(path)) as movie:
        found = [movie.frame(index) for index in (2, 0, 3, 1)]
    np.testing.assert_array_equal(found, frames[[2, 0, 3, 1]])
    for damaged in (path.read_bytes()[:-300], b"no such thing" * 50):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"m.mrcs.{kind} cannot be unpacked"), open_movie(str(path)):
            pass
    if kind == "xz":
        path.write_bytes(lzma.compress(b"too short"))
        with pytest.raises(UserError, match=r"m.mrcs.xz has 9 bytes"), open_movie(str(path)):
            pass


def test_defects(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("# a comment\n3 1 2 4\n\n9 0 5 1\n")
    mask = read_defects(str(tmp_path / "d.txt"), (8, 10))
    expected = np.zeros((8, 10), bool)
    expected[1:5, 3:5] = True
    expected[0, 9] = True
    np.testing.assert_array_equal(mask, expected)
    write_map(tmp_path / "d.mrc", expected.astype(np.float32), 1.0)
    np.testing.assert_array_equal(read_defects(str(tmp_path / "d.mrc"), (8, 10)), expected)


@pytest.mark.parametrize(
    ("content", "says"), [("CameraSizeX 100\n", "SerialEM"), ("1 2 3\n", "line 1"), ("1 2 x 4\n", "line 1")]
)
def test_bad_defect_files(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "d.txt").write_text(content)
    with pytest.raises(UserError, match=says):
        read_defects(str(tmp_path / "d.txt"), (8, 10))


def _broken(kind: str, directory: Path) -> str:
    path = directory / "m.tiff"
    frames = RNG.integers(0, 100, (6, 64, 64)).astype(np.uint8)
    tifffile.imwrite(path, frames, compression="lzw")
    whole = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"not a movie at all\n" * 20)
    elif kind == "last frame cut":
        path.write_bytes(whole[:-1000])
    elif kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "absent":
        path.unlink()
    elif kind == "cut eer":
        path = directory / "m.eer"
        write_eer(path, [eer_page([(1, 2, 0, 0)], 64, 64, 7)] * 8, 64, 64)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "tiff called eer":
        path = path.rename(directory / "m.eer")
    elif kind == "short mrc":
        path = directory / "m.mrcs"
        with mrcfile.new(path) as file:
            file.set_data(frames.astype(np.int16))
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "ending":
        path = path.rename(directory / "m.dat")
    return str(path)


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "last frame cut",
        "half",
        "absent",
        "short mrc",
        "ending",
        "cut eer",
        "tiff called eer",
    ],
)
def test_broken_movies_are_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    """And none stays open."""
    path = _broken(kind, tmp_path)
    with pytest.raises(UserError) as caught, open_movie(path) as movie:
        for index in range(movie.n_frames):
            movie.frame(index)
    assert path in str(caught.value) and "\n" not in str(caught.value)
    assert path not in [os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")]
