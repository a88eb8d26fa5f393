"""MRC maps, micrographs and image stacks: read by memory map, written whole or not at all.

Arrays are float32 with axes (z, y, x) for maps, (n, y, x) for stacks and (y, x) for one image. As in RELION
(rwMRC.h, parseMRCHeader): the byte order follows from the size of the header's numbers, the third axis of a
stack counts images, the axis order words (mapc, mapr, maps) are not looked at, and the pixel size is cell length
over sampling. Mode 0 is signed, but where IMOD's stamp comes without its flag for signed bytes they are unsigned
(IMOD, mrc_format.txt; RELION 5 makes values above 127 negative). `mrcfile` supplies the header layout.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_file

HEADER_BYTES = 1024
_SWAP_ABOVE = 65535  # rwMRC.h, SWAPTRIG: a larger nx or mode means the other byte order
_FOUR_BIT = 101
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_AT, _IMOD_STAMP, _SIGNED_BYTES = 40, 1146047817, 1  # place in the header's extra2, stamp, bit of the word behind
_OUTPUT_MODES = {"float32": 2, "float16": 12}


class MrcError(UserError):
    """An MRC file is not as it should be; the text says which file and what is wrong."""


@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says.

    nx, ny, nz: columns, rows, sections (images, in a stack). mode: the MRC data mode. byte_order: "<" or ">".
    offset: bytes before the data. pixel_sizes: (x, y, z) in A, 0.0 where the header does not say.
    statistics: (min, max, mean, rms) as written. start: (nxstart, nystart, nzstart) in pixels.
    space_group: 0 for a stack of images, 1 for a map, as far as programs keep to that.
    """

    path: str
    nx: int
    ny: int
    nz: int
    mode: int
    byte_order: str
    offset: int
    pixel_sizes: tuple[float, float, float]
    statistics: tuple[float, float, float, float]
    start: tuple[int, int, int]
    space_group: int
    row_bytes_padded: bool = False
    unsigned_bytes: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels in the file; of 4-bit images, of the bytes that hold two."""
        if self.mode == _FOUR_BIT or self.unsigned_bytes:
            return np.dtype(np.uint8)
        return np.dtype(self.byte_order + _MODES[self.mode])

    @property
    def pixel_size(self) -> float:
        """A per pixel along x; 0.0 where the header does not say."""
        return self.pixel_sizes[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nz, ny, nx)."""
        return self.nz, self.ny, self.nx

    @property
    def section_bytes(self) -> int:
        """Bytes of one section in the file."""
        if self.mode == _FOUR_BIT:
            return (self.nx + 1) // 2 * self.ny if self.row_bytes_padded else self.nx * self.ny // 2
        return self.nx * self.ny * self.dtype.itemsize

    @property
    def expected_bytes(self) -> int:
        """The least size of a file with this header."""
        return self.offset + self.section_bytes * self.nz


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header of an MRC file. MrcError if it is none or has a mode that holds no real images."""
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise MrcError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise MrcError(f"{path} cannot be read: {error.strerror}.") from None
    if len(raw) < HEADER_BYTES:
        raise MrcError(f"{path} has {size} bytes, fewer than the {HEADER_BYTES} of an MRC header.")
    words = np.frombuffer(raw[:16], "<i4").astype(np.int64)
    order = ">" if abs(words[3]) > _SWAP_ABOVE or abs(words[0]) > _SWAP_ABOVE else "<"
    return _parse(path, np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0], order, size)


def _parse(path: str, header: np.void, order: str, size: int) -> MrcHeader:
    nx, ny, nz, mode = (int(header[name]) for name in ("nx", "ny", "nz", "mode"))
    extended = int(header["nsymbt"])
    if min(nx, ny, nz) < 1 or max(nx, ny, nz) > 1 << 24 or extended < 0:
        raise MrcError(f"{path} is not an MRC file: its header gives the size {nx} x {ny} x {nz}.")
    if mode in (3, 4):
        raise MrcError(f"{path} holds a transform (MRC mode {mode}); only real-space images can be read.")
    if mode not in _MODES and mode != _FOUR_BIT:
        raise MrcError(f"{path} has MRC mode {mode}, which is not known.")
    cell = [float(header["cella"][axis]) for axis in "xyz"]
    sampling = [int(header[name]) for name in ("mx", "my", "mz")]
    sizes = [
        length / count if count > 0 and math.isfinite(length) and length > 0 else 0.0
        for length, count in zip(cell, sampling, strict=True)
    ]
    offset = HEADER_BYTES + extended
    stamp, flags = np.frombuffer(header["extra2"].tobytes()[_IMOD_AT : _IMOD_AT + 8], order + "i4").tolist()
    # IMOD fills up each row of an odd-sized 4-bit image to a whole byte; RELION packs rows without a gap
    padded = mode == _FOUR_BIT and nx % 2 == 1 and size >= offset + (nx + 1) // 2 * ny * nz
    if mode == _FOUR_BIT and not padded and nx % 2 and ny % 2:
        raise MrcError(f"{path}: 4-bit images need an even number of pixels; these are {nx} x {ny}.")
    return MrcHeader(
        path=path,
        nx=nx,
        ny=ny,
        nz=nz,
        mode=mode,
        byte_order=order,
        offset=offset,
        pixel_sizes=(sizes[0], sizes[1], sizes[2]),
        statistics=(
            float(header["dmin"]),
            float(header["dmax"]),
            float(header["dmean"]),
            float(header["rms"]),
        ),
        start=(int(header["nxstart"]), int(header["nystart"]), int(header["nzstart"])),
        space_group=int(header["ispg"]),
        row_bytes_padded=padded,
        unsigned_bytes=mode == 0 and stamp == _IMOD_STAMP and not flags & _SIGNED_BYTES,
    )


def check_size(header: MrcHeader) -> None:
    """MrcError, with the expected and the found number of bytes, if the file is shorter than it says."""
    found = os.path.getsize(header.path)
    if found < header.expected_bytes:
        nx, ny, nz = header.nx, header.ny, header.nz
        raise MrcError(
            f"{header.path} is cut short: {nx} x {ny} x {nz} in mode {header.mode} needs "
            f"{header.expected_bytes} bytes, the file has {found}."
        )


class Stack:
    """An open MRC stack (or map): sections are read when asked for. Safe to share between threads.

    len() is the number of sections; shape (nz, ny, nx). Use it as a context manager, or call close().
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.header = read_header(path)
        check_size(self.header)
        head = self.header
        shape = (head.nz, head.section_bytes) if head.mode == _FOUR_BIT else head.shape
        self._sections = np.memmap(head.path, head.dtype, "r", head.offset, shape=shape)

    def __len__(self) -> int:
        return self.header.nz

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nz, ny, nx)."""
        return self.header.shape

    @property
    def pixel_size(self) -> float:
        """A per pixel; 0.0 where the header does not say."""
        return self.header.pixel_size

    def image(self, index: int) -> np.ndarray:
        """Section `index` (from 0) as float32, shape (ny, nx)."""
        return self.images([index])[0]

    def view(self, index: int) -> np.ndarray:
        """As `image`, but read-only, and where the file holds aligned float32 of this machine's byte order a map of it:
        nothing is copied."""
        head, section = self.header, self._sections[index : index + 1]
        if len(section) and section.dtype == np.float32 and section.flags.aligned:
            first = head.offset + index * head.section_bytes
            beyond = first % mmap.ALLOCATIONGRANULARITY
            with open(head.path, "rb") as file:
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # all pages at once, where the system can
                size = beyond + head.section_bytes
                mapped = mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ, offset=first - beyond)
            return np.frombuffer(mapped, np.float32, offset=beyond).reshape(section.shape[1:])
        image = self.image(index)
        image.flags.writeable = False
        return image

    def images(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Sections (from 0; all by default) as float32, shape (n, ny, nx)."""
        if indices is None:
            picked: np.ndarray = np.asarray(self._sections)
        else:
            wanted = np.asarray(indices, dtype=np.int64)
            outside = wanted[(wanted < 0) | (wanted >= len(self))]
            if outside.size:
                raise MrcError(
                    f"Image number {int(outside[0]) + 1} was asked of {self.header.path}, which has {len(self)} images."
                )
            picked = self._sections[wanted]
        if self.header.mode == _FOUR_BIT:
            return self._unpack(picked)
        # sections that were picked are a copy already
        return np.asarray(picked).astype(np.float32, copy=indices is None)

    def _unpack(self, packed: np.ndarray) -> np.ndarray:
        """4-bit pixels, the low half of each byte first (image.h, castPage2T, case UHalf)."""
        head = self.header
        pixels = np.empty((len(packed), packed.shape[1] * 2), np.float32)
        pixels[:, 0::2] = packed & 15
        pixels[:, 1::2] = packed >> 4
        width = packed.shape[1] * 2 // head.ny if head.row_bytes_padded else head.nx
        return np.ascontiguousarray(pixels.reshape(len(packed), head.ny, width)[:, :, : head.nx])

    def close(self) -> None:
        """Let go of the file. Arrays that were returned stay valid."""
        del self._sections

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stack(path: str | os.PathLike[str]) -> Stack:
    """Open a stack or map for reading by section; MrcError if it is damaged or cut short."""
    return Stack(path)


def read_stack(
    path: str | os.PathLike[str], indices: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Images (n, ny, nx) as float32, and A per pixel (0.0 where the header does not say)."""
    with Stack(path) as stack:
        return stack.images(indices), stack.pixel_size


def read_map(path: str | os.PathLike[str]) -> tuple[np.ndarray, float]:
    """A map (z, y, x), or a micrograph (1, y, x), as float32, and A per pixel (0.0: not in the header)."""
    return read_stack(path)


def read_image(name: str | os.PathLike[str], *, mapped: bool = False) -> tuple[np.ndarray, float]:
    """One image (y, x) as float32 by RELION's name, `7@stack.mrcs` or `micrograph.mrc`, and A per pixel.

    mapped: read-only, and perhaps a map of the file, see :meth:`Stack.view`.
    """
    number, at, path = os.fspath(name).rpartition("@")
    if at and not number.isdigit():
        raise MrcError(f'"{name}" is not an image name; it should read like 000007@stack.mrcs.')
    with Stack(path) as stack:
        if not at and len(stack) != 1:
            raise MrcError(f"{path} has {len(stack)} images; say which, as in 000001@{path}.")
        index = int(number) - 1 if at else 0
        return (stack.view if mapped else stack.image)(index), stack.pixel_size


# ---------------------------------------------------------------------------------------------- writing


def write_map(path: str | os.PathLike[str], array: np.ndarray, pixel_size: float, dtype: str = "float32") -> None:
    """Write a map (z, y, x) or a micrograph (y, x); dtype "float32" (mode 2) or "float16" (mode 12)."""
    array = np.asarray(array)
    volume = array[None] if array.ndim == 2 else array
    _write(path, volume, pixel_size, dtype, space_group=1 if len(volume) > 1 else 0)


def write_stack(path: str | os.PathLike[str], images: np.ndarray, pixel_size: float, dtype: str = "float32") -> None:
    """Write a stack of images (n, y, x); dtype "float32" (mode 2) or "float16" (mode 12)."""
    _write(path, np.asarray(images), pixel_size, dtype, space_group=0)


def _write(path: str | os.PathLike[str], array: np.ndarray, pixel_size: float, dtype: str, space_group: int) -> None:
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} cannot be an MRC file")
    with StackWriter(path, array.shape[1:], pixel_size, dtype, space_group) as writer:
        for section in array:
            writer.append(section)


class StackWriter:
    """Write a stack image by image. The file takes its name when the block ends well, else it never was.

    with StackWriter("Extract/job004/mic1.mrcs", (80, 80), pixel_size=2.2) as writer:
        writer.append(image)                        # (y, x), or many: (n, y, x)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_shape: tuple[int, ...],
        pixel_size: float,
        dtype: str = "float32",
        space_group: int = 0,
    ) -> None:
        if dtype not in _OUTPUT_MODES:
            raise ValueError(f'dtype must be "float32" or "float16", not {dtype!r}')
        self.path = os.fspath(path)
        self.image_shape = (int(image_shape[0]), int(image_shape[1]))
        self.pixel_size = float(pixel_size)
        self.dtype = np.dtype("<f4" if dtype == "float32" else "<f2")
        self.space_group = space_group
        self.count = 0
        self._sum = self._sum_of_squares = 0.0
        self._min, self._max = math.inf, -math.inf
        self._exit = ExitStack()

    def __enter__(self) -> StackWriter:
        self._file = self._exit.enter_context(atomic_file(self.path))
        self._file.write(bytes(HEADER_BYTES))
        return self

    def append(self, images: np.ndarray) -> None:
        """Add one image (y, x) or several (n, y, x)."""
        images = np.asarray(images)
        if images.ndim == 2:
            images = images[None]
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images of shape {images.shape[1:]} in a stack of {self.image_shape}")
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(images, dtype=self.dtype)
        if self.dtype.itemsize == 2 and np.isinf(data).any() and not np.isinf(images).any():
            raise MrcError(
                f"{self.path}: values up to {float(np.abs(images).max()):.6g} do not fit into float16 "
                "(at most 65504); write it as float32."
            )
        self._file.write(data.tobytes())
        wide = data.astype(np.float64)
        self.count += len(data)
        self._sum += float(wide.sum())
        # not vdot: the matrix library's threads would wait busily between images
        self._sum_of_squares += float(np.einsum("nyx,nyx->", wide, wide))
        self._min, self._max = min(self._min, float(wide.min())), max(self._max, float(wide.max()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(self._header().tobytes())
        self._exit.__exit__(kind, error, trace)

    def _header(self) -> np.ndarray:
        rows, columns = self.image_shape
        pixels = max(1, self.count * rows * columns)
        mean = self._sum / pixels
        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        header["nx"], header["ny"], header["nz"] = columns, rows, self.count
        header["mx"], header["my"], header["mz"] = columns, rows, self.count
        header["mode"] = _OUTPUT_MODES[self.dtype.newbyteorder("=").name]
        size = self.pixel_size
        header["cella"] = (columns * size, rows * size, self.count * size)
        header["cellb"] = (90.0, 90.0, 90.0)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        if self.count:
            header["dmin"], header["dmax"], header["dmean"] = self._min, self._max, mean
            header["rms"] = math.sqrt(max(0.0, self._sum_of_squares / pixels - mean * mean))
        header["ispg"] = self.space_group
        header["nversion"] = 20140
        header["map"] = b"MAP "
        header["machst"] = (0x44, 0x44, 0, 0)
        header["nlabl"] = 1
        header["label"][0] = f"relion_py   {time.strftime('%d-%b-%y  %H:%M:%S')}".encode("ascii", "replace")
        return header
