"""Where the pixels of viewers come from: stacks, references in STAR files, maps, micrographs and movies,
read lazily.

An image is named as RELION names it: ``000012@Extract/job009/Movies/mic.mrcs`` (numbers from 1), or a file
alone. Names are relative to the project directory; they are looked up there and nowhere above it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.errors import DisplayError

MRC_SUFFIXES = {".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st", ".ctf"}
TIFF_SUFFIXES = {".tif", ".tiff"}
MOVIE_SUFFIXES = {".eer", *TIFF_SUFFIXES}
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".svg"}


STACK_SUFFIXES = {".mrcs", ".st"}


class ImageSource(Protocol):
    """Images that are read one at a time. ``image`` may be called from a worker thread."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> NDArray[Any]:
        """Pixels (ny, nx), any real type, or colours (ny, nx, 3) uint8; DisplayError when it cannot be
        read."""

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the first image; all are laid out in this shape."""


class MrcFile:
    """An MRC file opened for viewing; sections are read when asked for, from any thread.

    ``is_stack``: the sections are separate images (RELION tells by the ending ``.mrcs``). ``pixel_size`` in
    A along x, 0 where the header does not say. DisplayError when the file is none, is cut short, or is not
    there.
    """

    def __init__(self, path: Path, as_stack: bool = False) -> None:
        from relion_py.compute.errors import UserError
        from relion_py.compute.io import mrc

        self.path = path
        try:
            self._stack = mrc.open_stack(path)
        except (UserError, OSError) as error:
            raise DisplayError(str(error).rstrip(".")) from error
        self.pixel_size = self._stack.pixel_size
        self.is_stack = as_stack or path.suffix.lower() in STACK_SUFFIXES
        self.mode = self._stack.header.mode

    def __len__(self) -> int:
        return len(self._stack)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nz or n, ny, nx)."""
        return self._stack.shape

    @property
    def is_map(self) -> bool:
        """True for a three-dimensional map."""
        return not self.is_stack and len(self) > 1

    def image(self, index: int) -> NDArray[np.float32]:
        """Section ``index`` (from 0), (ny, nx)."""
        return self._stack.image(index)

    def volume(self) -> NDArray[np.float32]:
        """All sections, (nz, ny, nx)."""
        return self._stack.images()


def split_name(name: str) -> tuple[int, str]:
    """``000012@file`` as (11, file): the image's index from 0 and its file; (-1, name) where no number
    stands."""
    number, at, path = name.partition("@")
    if not at:
        return -1, _without_format(name)
    try:
        return int(number) - 1, _without_format(path)
    except ValueError:
        return -1, name


def _without_format(path: str) -> str:
    """RELION writes ``file.ctf:mrc`` for a file whose format its name does not tell."""
    for ending in (":mrcs", ":mrc"):
        if path.endswith(ending):
            return path[: -len(ending)]
    return path


def project_root(path: Path) -> Path:
    """The project directory that ``path`` lies in: the nearest one with a pipeline file, else the working
    directory if ``path`` lies below it, else the directory of ``path``."""
    folder = path.resolve().parent
    for parent in (folder, *folder.parents):
        if (parent / "default_pipeline.star").is_file() and not _is_job(parent):
            return parent
        if (parent / ".gui_projectdir").is_file():
            return parent
    here = Path.cwd()
    return here if folder.is_relative_to(here) else folder


def _is_job(directory: Path) -> bool:
    """Job directories hold a copy of the pipeline file; they are no projects."""
    return (directory / "job.star").exists() or (directory / "run.job").exists()


def find_file(root: Path, name: str) -> Path:
    """The file that ``name`` (as in a STAR file) means in the project at ``root``; DisplayError where there
    is none."""
    path = Path(name)
    full = path if path.is_absolute() else root / path
    if full.is_file():
        return full
    raise DisplayError(f"{name} is not there (looked in {root})")


class Opened:
    """Keeps the files opened last; many images of one stack cost one opening. Safe to use from threads."""

    def __init__(self, root: Path, keep: int = 16) -> None:
        self.root, self.keep = root, keep
        self._files: OrderedDict[str, MrcFile] = OrderedDict()
        self._lock = threading.Lock()

    def mrc(self, name: str) -> MrcFile:
        """The MRC file of that name."""
        with self._lock:
            if name in self._files:
                self._files.move_to_end(name)
                return self._files[name]
        opened = MrcFile(find_file(self.root, name))
        with self._lock:
            self._files[name] = opened
            while len(self._files) > self.keep:
                self._files.popitem(last=False)
        return opened

    def image(self, name: str) -> NDArray[Any]:
        """The pixels (ny, nx) of an image named as in a STAR file.

        Of a map: its central z section, as RELION shows references. Of a movie (MRC stack named without a
        number, TIFF, EER): the sum of its frames.
        """
        index, file = split_name(name)
        suffix = Path(file).suffix.lower()
        if suffix in MOVIE_SUFFIXES:
            return read_movie_sum(find_file(self.root, file))
        opened = self.mrc(file)
        count = len(opened)
        if index >= count:
            raise DisplayError(f"{file} holds {count} images; there is no number {index + 1}")
        if index >= 0 or count == 1:
            return opened.image(max(index, 0))
        if opened.is_map:
            return opened.image(count // 2)
        total = opened.image(0)
        for frame in range(1, count):
            total += opened.image(frame)
        return total

    def pixel_size(self, name: str) -> float:
        """Pixel size in A from the header of the image's file; 0 where it does not say."""
        _, file = split_name(name)
        if Path(file).suffix.lower() in MOVIE_SUFFIXES:
            return 0.0
        return self.mrc(file).pixel_size


class NamedImages:
    """Images named one by one, as the columns of a STAR file name them."""

    def __init__(self, names: Sequence[str], root: Path, opened: Opened | None = None) -> None:
        self.names = names
        self.opened = opened or Opened(root)
        self._shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> NDArray[Any]:
        """Pixels of image ``index`` (from 0)."""
        return self.opened.image(self.names[index])

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the first image that can be opened among the first ten; square where none can."""
        if self._shape is None:
            self._shape = (64, 64)
            for name in self.names[:10]:
                _, file = split_name(name)
                try:
                    if Path(file).suffix.lower() in MOVIE_SUFFIXES:
                        self._shape = movie_shape(find_file(self.opened.root, file))
                    else:
                        self._shape = self.opened.mrc(file).shape[1:]
                    break
                except DisplayError:
                    continue
        return self._shape

    @property
    def pixel_size(self) -> float:
        """Pixel size in A from the first image's header; 0 where unknown."""
        try:
            return self.opened.pixel_size(self.names[0]) if self.names else 0.0
        except DisplayError:
            return 0.0


class SurfaceImages:
    """Pictures (size, size, 3) of the surfaces of maps, one per map; DisplayError where a map is not
    there."""

    def __init__(self, names: Sequence[str], root: Path, size: int = 200) -> None:
        self.names, self.size = names, size
        self.opened = Opened(root, keep=1)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> NDArray[Any]:
        """The picture of map ``index`` (from 0), at a threshold that suits it."""
        from relion_py.gui.display import surface

        volume = self.opened.mrc(split_name(self.names[index])[1]).volume()
        small, _ = surface.reduce_volume(volume, 80)
        threshold = surface.suggest_threshold(small)
        zoom = surface.fitting_zoom(small, threshold)
        return surface.render_surface(small, threshold, size=self.size, zoom=zoom)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of every picture."""
        return self.size, self.size


class StackImages:
    """The images of one MRC stack, or the z sections of a map, or a single image."""

    def __init__(self, opened: MrcFile) -> None:
        self.opened = opened
        self.pixel_size = opened.pixel_size

    def __len__(self) -> int:
        return len(self.opened)

    def image(self, index: int) -> NDArray[Any]:
        """Pixels of image ``index`` (from 0)."""
        return self.opened.image(index)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of every image."""
        return self.opened.shape[1:]


def movie_shape(path: Path) -> tuple[int, int]:
    """(ny, nx) of a TIFF or EER movie's frames."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            shape = file.pages[0].shape
    except Exception as error:
        raise DisplayError(f"{path} cannot be read as a TIFF or EER file: {error}") from error
    return int(shape[0]), int(shape[1])


def read_movie_sum(path: Path) -> NDArray[np.float32]:
    """The sum (ny, nx) of all frames of a TIFF or EER movie, or a single TIFF image; rows as they lie in
    the file."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            total: NDArray[np.float32] | None = None
            for page in file.pages:
                frame = page.asarray().astype(np.float32)
                if frame.ndim == 3:
                    frame = frame[..., :3].mean(axis=2)
                total = frame if total is None else total + frame
    except Exception as error:  # tifffile's own, zlib's, imagecodecs': the person needs one sentence
        raise DisplayError(f"{path} cannot be read as a TIFF or EER file: {error}") from error
    if total is None:
        raise DisplayError(f"{path} holds no image")
    return total
