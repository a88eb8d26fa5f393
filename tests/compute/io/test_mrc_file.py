"""MRC files against mrcfile, Debian's RELION and bytes packed by hand."""

from __future__ import annotations

import re
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from relion_py.compute.io import mrc
from relion_py.compute.io.movies import open_movie
from relion_py.compute.io.mrc import MrcError, StackWriter


def _random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _raw(path, data: bytes, order="<", **fields):
    header = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.tobytes() + data)
    return path


# --------------------------------------------------------------------------- reading


@pytest.mark.filterwarnings("ignore:Map ID:RuntimeWarning", "ignore:Unrecognised machine:RuntimeWarning")
def test_real_maps_and_stacks_agree_with_mrcfile(shared, unpacked):
    packed = [*shared.glob("data/real/maps/*.gz"), *shared.glob("data/real/tiny-stacks/*.gz")]
    assert len(packed) >= 10
    for path in packed:
        file = unpacked(path)
        ours, pixel_size = mrc.read_map(file)
        with mrcfile.open(file, permissive=True) as theirs:
            expected = np.asarray(theirs.data, dtype=np.float32)
            size = float(theirs.voxel_size.x)
        np.testing.assert_array_equal(ours, expected.reshape(ours.shape))
        assert ours.dtype == np.float32
        assert pixel_size == pytest.approx(size, rel=1e-6) or (pixel_size == 0 and not size > 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")], ids=str
)  # fmt: skip
def test_every_mode_in_both_byte_orders(tmp_path, order, mode, dtype):
    values = (np.arange(24) - (0 if mode == 6 else 12)).reshape(2, 3, 4)
    data = values.astype(np.dtype(order + dtype)).tobytes()
    path = _raw(
        tmp_path / "x.mrc", bytes(16) + data, order, nx=4, ny=3, nz=2, mode=mode, nsymbt=16,
        mx=4, my=3, mz=2, cella=(6, 4.5, 3),
    )  # fmt: skip
    array, pixel_size = mrc.read_map(path)
    np.testing.assert_array_equal(array, values)
    assert pixel_size == 1.5
    assert mrc.read_header(path).byte_order == order


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("flags", "dtype"), [(0, "u1"), (1, "i1"), (14, "u1"), (None, "i1")])
def test_bytes_are_unsigned_where_imod_says_so(tmp_path, order, flags, dtype):
    """IMOD's stamp (bytes 153-156) comes with flags; without the first of them bytes are unsigned. Witness: mrcfile's
    layout and IMOD's mrc_format.txt; without the stamp bytes are signed, as MRC2014 has them."""
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    path = _raw(tmp_path / "x.mrc", values.tobytes(), nx=16, ny=16, nz=1, mode=0, order=order)
    if flags is not None:
        raw = bytearray(path.read_bytes())
        struct.pack_into(order + "2i", raw, 152, 1146047817, flags)
        path.write_bytes(raw)
    np.testing.assert_array_equal(mrc.read_map(path)[0], values.view(dtype))
    with open_movie(str(path)) as movie:
        assert movie.frame(0).dtype == dtype
        np.testing.assert_array_equal(movie.frame(0), values.view(dtype)[0])


def test_four_bit_images_low_half_first(tmp_path):
    pixels = np.arange(48).reshape(2, 4, 6) % 16
    packed = (pixels[..., 0::2] | (pixels[..., 1::2] << 4)).astype(np.uint8)
    path = _raw(tmp_path / "x.mrc", packed.tobytes(), nx=6, ny=4, nz=2, mode=101)
    np.testing.assert_array_equal(mrc.read_map(path)[0], pixels)


def test_four_bit_rows_of_odd_length_are_padded(tmp_path):
    # IMOD fills each row up to whole bytes
    pixels = np.arange(15).reshape(1, 3, 5)
    wide = np.pad(pixels, ((0, 0), (0, 0), (0, 1)))
    packed = (wide[..., 0::2] | (wide[..., 1::2] << 4)).astype(np.uint8)
    path = _raw(tmp_path / "x.mrc", packed.tobytes(), nx=5, ny=3, nz=1, mode=101)
    np.testing.assert_array_equal(mrc.read_map(path)[0], pixels)


def test_sections_are_read_alone_and_from_several_threads(tmp_path):
    stack = _random((50, 8, 8))
    mrc.write_stack(tmp_path / "s.mrcs", stack, 2.0)
    with mrc.open_stack(tmp_path / "s.mrcs") as opened, ThreadPoolExecutor(4) as pool:
        assert len(opened) == 50
        assert opened.shape == (50, 8, 8)
        for index, image in enumerate(pool.map(opened.image, range(50))):
            np.testing.assert_array_equal(image, stack[index])
        np.testing.assert_array_equal(opened.images([7, 3, 7]), stack[[7, 3, 7]])
    one, pixel_size = mrc.read_image(f"000004@{tmp_path / 's.mrcs'}")
    np.testing.assert_array_equal(one, stack[3])
    assert pixel_size == 2.0


@pytest.mark.parametrize(
    ("order", "dtype", "offset"), [("<", "f4", 16), ("<", "f4", 2), (">", "f4", 16), ("<", "i2", 0)]
)
def test_an_image_that_is_mapped(tmp_path, order, dtype, offset):
    """The same values, aligned and of this machine's byte order, wherever they lie in the file."""
    values = np.arange(2 * 40 * 50).reshape(2, 40, 50)
    data = bytes(offset) + values.astype(np.dtype(order + dtype)).tobytes()
    path = _raw(tmp_path / "x.mrcs", data, order, nx=50, ny=40, nz=2, mode=2 if dtype == "f4" else 1, nsymbt=offset)
    for number in (0, 1):
        image, _ = mrc.read_image(f"{number + 1}@{path}", mapped=True)
        np.testing.assert_array_equal(image, values[number])
        assert image.dtype == np.float32 and image.dtype.isnative
        assert image.flags.aligned and not image.flags.writeable
    with pytest.raises(MrcError, match=r"Image number 3 .* has 2 images"):
        mrc.read_image(f"3@{path}", mapped=True)


# --------------------------------------------------------------------------- damaged files


def test_a_file_cut_short_names_both_sizes(tmp_path):
    path = tmp_path / "s.mrcs"
    mrc.write_stack(path, _random((5, 8, 8)), 1.0)
    with open(path, "r+b") as file:
        file.truncate(1024 + 4 * 8 * 8 * 3 + 10)
    with pytest.raises(MrcError, match=rf"needs {1024 + 4 * 320} bytes, the file has {1024 + 4 * 192 + 10}"):
        mrc.read_stack(path)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"nx": 4, "ny": 4, "nz": 1, "mode": 4}, "transform"),
        ({"nx": 4, "ny": 4, "nz": 1, "mode": 77}, "mode 77"),
        ({"nx": 0, "ny": 4, "nz": 1, "mode": 2}, "not an MRC file"),
        ({"nx": 4, "ny": 4, "nz": -1, "mode": 2}, "not an MRC file"),
        ({"nx": 4, "ny": 4, "nz": 1, "mode": 2, "nsymbt": -8}, "not an MRC file"),
        ({"nx": 5, "ny": 5, "nz": 1, "mode": 101}, "even number"),
    ],
)
def test_impossible_headers(tmp_path, fields, what):
    with pytest.raises(MrcError, match=what):
        mrc.read_map(_raw(tmp_path / "x.mrc", bytes(12), **fields))


def test_files_that_are_not_there_or_too_small(tmp_path):
    with pytest.raises(MrcError, match="no such file"):
        mrc.read_map(tmp_path / "none.mrc")
    (tmp_path / "small.mrc").write_bytes(b"x" * 100)
    with pytest.raises(MrcError, match="100 bytes, fewer than the 1024"):
        mrc.read_map(tmp_path / "small.mrc")
    mrc.write_stack(tmp_path / "s.mrcs", _random((3, 4, 4)), 1.0)
    with pytest.raises(MrcError, match=r"Image number 4 .* has 3 images"):
        mrc.read_image(f"4@{tmp_path}/s.mrcs")
    with pytest.raises(MrcError, match="say which"):
        mrc.read_image(tmp_path / "s.mrcs")


@pytest.mark.parametrize("fields", [{"mx": 0}, {"cella": (0, 0, 0)}, {"cella": (np.nan, 1, 1)}], ids=str)
def test_a_header_without_a_pixel_size_gives_zero(tmp_path, fields):
    base = {"nx": 2, "ny": 2, "nz": 1, "mode": 2, "mx": 2, "my": 2, "mz": 1, "cella": (3, 3, 3)} | fields
    assert mrc.read_map(_raw(tmp_path / "x.mrc", bytes(16), **base))[1] == 0.0


# --------------------------------------------------------------------------- writing


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mrcfile_accepts_and_reads_what_is_written(tmp_path, dtype, capsys):
    volume = _random((6, 8, 10))
    mrc.write_map(tmp_path / "m.mrc", volume, 1.7, dtype)
    mrc.write_stack(tmp_path / "s.mrcs", volume, 1.7, dtype)
    for name, is_stack in (("m.mrc", False), ("s.mrcs", True)):
        assert mrcfile.validate(tmp_path / name), capsys.readouterr().out
        with mrcfile.open(tmp_path / name) as file:
            np.testing.assert_array_equal(file.data, volume.astype(dtype))
            assert file.is_image_stack() == is_stack
            assert float(file.voxel_size.x) == pytest.approx(1.7)
            assert float(file.header.dmin) == pytest.approx(float(volume.astype(dtype).min()))
            assert float(file.header.rms) == pytest.approx(float(volume.std()), rel=1e-3)


def test_debians_relion_reads_what_is_written(tmp_path, debian_relion):
    volume = _random((8, 8, 8)) + 3
    mrc.write_map(tmp_path / "m.mrc", volume, 1.7)
    out = subprocess.run(
        [debian_relion("relion_image_handler"), "--i", "m.mrc", "--stats"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert "8 x 8 x 8 x 1" in out
    numbers = dict(re.findall(r"(\w+)\s*=\s*(-?[\d.]+)", out))
    assert float(numbers["avg"]) == pytest.approx(volume.mean(), rel=1e-4)
    assert float(numbers["stddev"]) == pytest.approx(volume.std(), rel=1e-4)
    assert float(numbers["angpix"]) == pytest.approx(1.7)


def test_a_stack_grows_image_by_image(tmp_path):
    images = _random((7, 6, 4))
    with StackWriter(tmp_path / "s.mrcs", (6, 4), 2.5) as writer:
        writer.append(images[0])
        writer.append(images[1:])
        assert not (tmp_path / "s.mrcs").exists()
    again, pixel_size = mrc.read_stack(tmp_path / "s.mrcs")
    np.testing.assert_array_equal(again, images)
    assert pixel_size == 2.5
    low, high, mean, rms = mrc.read_header(tmp_path / "s.mrcs").statistics
    np.testing.assert_allclose(
        [low, high, mean, rms], [images.min(), images.max(), images.mean(), images.std()], rtol=1e-5
    )


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), StackWriter(tmp_path / "s.mrcs", (4, 4), 1.0) as writer:
        writer.append(np.zeros((4, 4)))
        raise RuntimeError
    with pytest.raises(MrcError, match=r"1e\+06 do not fit into float16"):
        mrc.write_map(tmp_path / "m.mrc", np.full((2, 2, 2), 1e6), 1.0, "float16")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_stack_and_wrong_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        mrc.write_stack(tmp_path / "s.mrcs", np.zeros((0, 4, 4)), 1.0)
    with StackWriter(tmp_path / "s.mrcs", (4, 4), 1.0) as writer:
        writer.append(np.zeros((4, 4)))
        with pytest.raises(ValueError, match="stack of"):
            writer.append(np.zeros((4, 5)))
