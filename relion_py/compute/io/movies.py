"""Movies as detectors write them: TIFF, MRC stacks and EER, frame by frame; gain references and defects.

MRC stacks may be packed by bzip2, xz or zstd (the last needs the program of that name).

Rows are in RELION's order: TIFF images are turned upside down on reading, because in TIFF the first row is
the top one and in MRC the bottom one (rwTIFF.h, readTIFF). EER frames and `.gain` files are not turned.

Facts: RELION 5, rwTIFF.h, renderEER.h (loadEERGain), motioncorr_runner.cpp (fillDefectMask,
prepareGainReference), image.h (CompressedMRCReader).
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc
from relion_py.compute.io.eer import EerFile, is_whole

# IMOD's way to pack two pixels into a byte; only the size tells (rwTIFF.h, readTIFF): 8-bit columns, rows
_PACKED = {(5760, 8184), (8184, 5760), (4092, 11520), (11520, 4092), (3710, 7676), (7676, 3710)}
_PACKED |= {(3838, 7420), (7420, 3838)}


class MovieError(UserError):
    """A movie, gain reference or defect file is not as it should be; the text says which and why."""


class Movie(Protocol):
    """An open movie. `frame` may be called from several threads at once."""

    path: str
    n_frames: int
    shape: tuple[int, int]
    """(ny, nx) in pixels."""

    def frame(self, index: int) -> NDArray[Any]:
        """Frame `index` (from 0), shape (ny, nx), in the smallest dtype that holds the file's values."""

    def close(self) -> None:
        """Let go of the file."""


def is_eer(path: str) -> bool:
    """Whether the name is that of an electron-event file (renderEER.h, isEER)."""
    return path.lower().endswith((".eer", ".ecc"))


def is_tiff(path: str) -> bool:
    """Whether the name is that of a TIFF file."""
    return path.lower().endswith((".tif", ".tiff"))


@contextmanager
def open_movie(path: str, eer_grouping: int = 40, eer_upsampling: int = 1) -> Iterator[Movie]:
    """The movie at `path`, for `with`: its kind follows from the ending of its name.

    eer_grouping: how many readouts of an EER file make a frame (what remains at the end is left out);
    eer_upsampling: 1, or 2 for pixels of half the size. MovieError if it cannot be read.
    """
    movie = _open(path, eer_grouping, eer_upsampling)
    try:
        yield movie
    finally:
        movie.close()


def _open(path: str, eer_grouping: int, eer_upsampling: int) -> Movie:
    try:
        size = os.path.getsize(path)
    except OSError:
        raise MovieError(f"{path}: there is no such file.") from None
    if size == 0:
        raise MovieError(f"{path} is empty (0 bytes).")
    try:
        if is_eer(path):
            return _Eer(path, eer_grouping, eer_upsampling)
        if is_tiff(path):
            return _Tiff(path)
        if path.lower().endswith((".mrc", ".mrcs", ".st")):
            return _Mrc(path)
    except (tifffile.TiffFileError, struct.error, IndexError, OSError) as error:
        raise MovieError(f"{path} cannot be read: {_short(error)}.") from None
    if re.search(r"\.mrcs?\.(bz2|xz|zst)$", path.lower()):
        return _unpacked(path)
    raise MovieError(f"{path} does not end like a movie (.tif, .tiff, .mrc, .mrcs, .eer, .mrc.bz2).")


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _unpacked(path: str) -> Movie:
    """An MRC stack that is compressed as a whole, unpacked to a temporary file that has no name any more."""
    with tempfile.NamedTemporaryFile() as temporary:
        try:
            if path.lower().endswith(".zst"):
                command = [shutil.which("zstd") or "", "-dcq", path]
                if not command[0]:
                    raise MovieError(f"{path}: the program zstd, which unpacks it, is not on the PATH.")
                done = subprocess.run(command, stdout=temporary, stderr=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    raise MovieError(f"{path} cannot be unpacked: zstd says {done.stderr.strip()!r}.")
            else:
                unpack = bz2.open if path.lower().endswith(".bz2") else lzma.open
                with unpack(path) as packed:
                    shutil.copyfileobj(packed, temporary, 1 << 20)
            temporary.flush()
        except (EOFError, lzma.LZMAError, OSError) as error:
            if getattr(error, "errno", None):
                raise  # no room for it, say
            raise MovieError(f"{path} cannot be unpacked: {_short(error)}.") from None
        try:
            return _Mrc(path, temporary.name)
        except mrc.MrcError as error:
            raise MovieError(str(error).replace(temporary.name, path)) from None


class _Mrc:
    def __init__(self, path: str, unpacked: str = "") -> None:
        self.path = path
        self._stack = mrc.open_stack(unpacked or path)
        self.n_frames = len(self._stack)
        self.shape = self._stack.shape[1:]

    def frame(self, index: int) -> NDArray[Any]:
        image = self._stack.image(index)
        dtype = self._stack.header.dtype
        return image.astype(dtype.newbyteorder("=")) if dtype.kind in "iu" else image

    def close(self) -> None:
        self._stack.close()


class _Tiff:
    def __init__(self, path: str) -> None:
        self.path = path
        with ExitStack() as opened:  # closed again if these are no frames
            self._file = opened.enter_context(tifffile.TiffFile(path))
            self._file.filehandle.set_lock(True)
            self._pages: list[Any] = list(self._file.pages)
            self.n_frames = len(self._pages)
            first = self._pages[0]
            if len(first.shape) != 2 or first.dtype is None or first.dtype.kind not in "iuf":
                raise MovieError(f"{path}: its frames are no grey images of real numbers.")
            for number, page in enumerate(self._pages, 1):
                if page.shape != first.shape or page.dtype != first.dtype:
                    raise MovieError(f"{path}: frame {number} differs from the first in its size or number format.")
            if not is_whole(self._file, self._pages):
                raise MovieError(f"{path} is cut short: not all of its frames are there.")
            opened.pop_all()
        ny, nx = first.shape
        self._packed = first.dtype.itemsize == 1 and (nx, ny) in _PACKED
        self.shape = (ny, 2 * nx) if self._packed else (ny, nx)

    def frame(self, index: int) -> NDArray[Any]:
        try:
            image = np.asarray(self._pages[index].asarray(maxworkers=1))
        except (ValueError, RuntimeError, OSError) as error:
            raise MovieError(f"{self.path}: frame {index + 1} cannot be read: {_short(error)}.") from None
        if self._packed:
            image = unpack_nibbles(image)
        return image[::-1]

    def close(self) -> None:
        self._file.close()


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two pixels from each byte (ny, n) -> (ny, 2 n), the low half first (image.h, castPage2T)."""
    packed = packed.view(np.uint8)
    pixels = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    pixels[:, 0::2] = packed & 15
    pixels[:, 1::2] = packed >> 4
    return pixels


class _Eer:
    def __init__(self, path: str, grouping: int, upsampling: int) -> None:
        if grouping < 1:
            raise MovieError(f"The EER grouping must be at least 1, not {grouping}.")
        self.path = path
        self.grouping = grouping
        self.events = EerFile(path, upsampling)
        self.n_frames = self.events.n_readouts // grouping
        self.shape = self.events.shape

    def frame(self, index: int) -> NDArray[Any]:
        return self.events.render(index * self.grouping, (index + 1) * self.grouping)

    def close(self) -> None:
        self.events.close()


# ------------------------------------------------------------------------------------- gain and defects


def read_image(path: str) -> NDArray[np.float32]:
    """One image (MRC, or TIFF turned upside down), float32 (ny, nx)."""
    if not os.path.exists(path):
        raise MovieError(f"{path}: there is no such file.")
    if is_tiff(path):
        return np.ascontiguousarray(_first_page(path)[::-1])
    with mrc.open_stack(path) as stack:
        return stack.image(0)


def _first_page(path: str) -> NDArray[np.float32]:
    try:
        with tifffile.TiffFile(path) as file:
            return np.asarray(file.pages[0].asarray(maxworkers=1), np.float32)
    except (tifffile.TiffFileError, ValueError, RuntimeError, IndexError, OSError) as error:
        raise MovieError(f"{path} cannot be read: {_short(error)}.") from None


def check_gain_name(path: str) -> None:
    """MovieError for gain references in a format that nothing here reads."""
    if os.path.splitext(path)[1].lower().startswith(".dm"):
        raise MovieError(
            f"{path}: gain references in Digital Micrograph format cannot be read; convert it to MRC (dm2mrc of IMOD)."
        )


def read_gain(path: str, movie: Movie) -> NDArray[np.float32]:
    """The factors by which frames of `movie` are multiplied, float32 (ny, nx); 0 where a pixel is dead.

    For EER an MRC or TIFF gain divides, as EPU's older references do, and a `.gain` file multiplies; either
    may have the size of the detector or twice that (renderEER.h, loadEERGain).
    """
    check_gain_name(path)
    if isinstance(movie, _Eer):
        gain = _eer_gain(path, movie)
    elif path.lower().endswith(".gain"):
        raise MovieError(f"{path}: .gain files belong to EER movies, and {movie.path} is none.")
    else:
        gain = read_image(path)
    if gain.shape != movie.shape:
        raise MovieError(
            f"{movie.path}: frames have {movie.shape[1]} x {movie.shape[0]} pixels and the gain reference "
            f"{path} has {gain.shape[1]} x {gain.shape[0]}; rotate it (--gain_rot) if need be."
        )
    if not np.isfinite(gain).all():
        raise MovieError(f"{path}: the gain reference has pixels that are no numbers (NaN or infinite).")
    return gain


def _eer_gain(path: str, movie: _Eer) -> NDArray[np.float32]:
    multiplies = path.lower().endswith(".gain")
    gain = _first_page(path) if multiplies else read_image(path)
    detector = (movie.events.height, movie.events.width)
    upsampling = movie.events.upsampling
    if gain.shape == detector and upsampling == 2:
        gain = np.repeat(np.repeat(gain, 2, axis=0), 2, axis=1)
    elif gain.shape == (2 * detector[0], 2 * detector[1]) and upsampling == 1:
        gain = gain.reshape(detector[0], 2, detector[1], 2).sum(axis=(1, 3))
    if not multiplies:
        mean = gain.mean(dtype=np.float64)
        gain = np.divide(mean, gain, out=np.zeros_like(gain), where=gain != 0)
    return gain.astype(np.float32, copy=False)


def turn_gain(gain: NDArray[np.float32], rotation: int, flip: int) -> NDArray[np.float32]:
    """The gain reference rotated by `rotation` x 90 degrees, then flipped (1: upside down, 2: left to right).

    The rotation is clockwise on a screen that shows the first row at the top (image_op.h, rotate90), which
    is RotGain of MotionCor2 in MRC's own sense. MovieError for other numbers.
    """
    if rotation not in (0, 1, 2, 3):
        raise MovieError(f"--gain_rot must be 0, 1, 2 or 3, not {rotation}.")
    if flip not in (0, 1, 2):
        raise MovieError(f"--gain_flip must be 0, 1 or 2, not {flip}.")
    turned = np.rot90(gain, -rotation)
    return np.ascontiguousarray({0: turned, 1: turned[::-1], 2: turned[:, ::-1]}[flip])


def read_defects(path: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Defective pixels, bool (ny, nx): from `x y w h` lines (.txt) or from an image that is not 0 there.

    Parts of rectangles outside the frame are left out. MovieError for SerialEM's own format, for lines that
    are not four whole numbers, and for an image of another size.
    """
    mask = np.zeros(shape, bool)
    if not path.lower().endswith(".txt"):
        image = read_image(path)
        if image.shape != shape:
            raise MovieError(
                f"The defect map {path} has {image.shape[1]} x {image.shape[0]} pixels and the frames have "
                f"{shape[1]} x {shape[0]}."
            )
        return np.asarray(image != 0)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise MovieError(f"The defect file {path} cannot be read: {error.strerror}.") from None
    if re.search("CameraSize|RotationAndFlip|K2Type|Bad", text):
        raise MovieError(
            f"{path} is a defect file of SerialEM; this program needs lines of x y width height, or a map as "
            '"clip defect -D" of IMOD makes it.'
        )
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = (int(word) for word in words)
        except ValueError:
            raise MovieError(f"{path}, line {number}: a defect is four whole numbers (x y width height).") from None
        mask[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = True
    return mask
