"""The CTF of one micrograph: by the built-in estimator or by the user's CTFFIND; all its files.

Source: RELION 5, ctffind_runner.cpp (executeCtffind4).
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf.ctffind import (
    PICTURE,
    ctffind_answers,
    remove_results,
    run_ctffind,
    write_results,
)
from relion_py.compute.ctf.estimate import Search, estimate_ctf
from relion_py.compute.ctf.listing import Entry
from relion_py.compute.ctf.quality import fit_picture, profiles
from relion_py.compute.ctf.spectrum import Spectrum, amplitude_spectrum, check_pixels, without_contamination
from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import read_header, read_image, write_map


@dataclass(frozen=True)
class Settings:
    """How to estimate. box: pixels of the spectrum; window: pixels of a central square that is looked at, 0
    for all; given_spectra: the sources are amplitude spectra; executable: CTFFIND, or "" for the built-in
    estimator; exhaustive: CTFFIND's slower search."""

    search: Search
    box: int = 512
    window: int = 0
    given_spectra: bool = False
    executable: str = ""
    exhaustive: bool = True

    def __post_init__(self) -> None:
        if self.box < 64 or self.box % 2:
            raise UserError(f"--Box must be an even number of at least 64 pixels, not {self.box}.")
        if self.given_spectra and self.window > 0:
            raise UserError("--ctfWin and --use_given_ps exclude each other: a spectrum has no window.")


def do_ctf(entry: Entry, root: str, settings: Settings, stop: threading.Event | None = None) -> None:
    """Estimate the CTF of one micrograph and write its files (see :mod:`relion_py.compute.ctf.ctffind`).

    root: path of the outputs without endings. UserError, with the name of the file, if it cannot be read or
    holds nothing that can be fitted. stop: see `run_ctffind`.
    """
    os.makedirs(os.path.dirname(root) or ".", exist_ok=True)
    remove_results(root)
    if settings.executable:
        _by_ctffind(entry, root, settings, stop)
    else:
        _built_in(entry, root, settings)


def _built_in(entry: Entry, root: str, settings: Settings) -> None:
    search = settings.search
    image, header_size = read_image(entry.source)
    check_pixels(image, entry.source)
    try:
        if settings.given_spectra:
            spectrum = _given_spectrum(image, header_size)
        else:
            image = without_contamination(_window(image, settings.window), entry.pixel_size, search.coarsest_resolution)
            spectrum = amplitude_spectrum(image, entry.pixel_size, settings.box, search.finest_resolution)
        fit = estimate_ctf(spectrum, entry.microscope, search)
    except UserError as error:
        raise UserError(f"{entry.source}: {error}") from None
    curves = profiles(spectrum, fit, entry.microscope, search)
    picture = fit_picture(spectrum, fit, curves, entry.microscope, search)
    write_map(root + PICTURE, picture, spectrum.angpix)
    write_results(
        root, entry.source, fit, curves, entry.microscope, search, spectrum.box, spectrum.angpix
    )  # fmt: skip


def _given_spectrum(image: NDArray[np.float32], angpix: float) -> Spectrum:
    if image.shape[0] != image.shape[1] or len(image) < 64 or len(image) % 2:
        raise UserError(
            f"a power spectrum must be an even square of at least 64 pixels, not {image.shape[1]} x "
            f"{image.shape[0]}; is this the micrograph itself?"
        )
    if angpix <= 0:
        raise UserError("its header does not tell the pixel size of the power spectrum")
    return Spectrum(image, angpix)


def _window(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The central square of `size` pixels, or all of it for 0."""
    if size <= 0:
        return image
    rows, columns = image.shape
    if size > min(rows, columns):
        raise UserError(f"the window of {size} pixels (--ctfWin) is larger than {columns} x {rows} pixels")
    top, left = rows // 2 - size // 2, columns // 2 - size // 2
    return image[top : top + size, left : left + size]


def _by_ctffind(entry: Entry, root: str, settings: Settings, stop: threading.Event | None) -> None:
    """CTFFIND writes beside its input, so it is given a link (or a window) among the outputs."""
    header = read_header(entry.source)  # so that a file that is none gets a sentence of ours
    angpix, box = entry.pixel_size, settings.box
    if settings.given_spectra:
        angpix, box = header.pixel_size or angpix, header.nx
    link = root + os.path.splitext(entry.source)[1]
    if settings.window > 0:
        link = root + "_win.mrc"
        write_map(link, _window(read_image(entry.source)[0], settings.window), entry.pixel_size)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(os.path.relpath(entry.source, os.path.dirname(link) or "."), link)
    try:
        answers = ctffind_answers(link, root, angpix, box, entry.microscope, settings.search, settings.exhaustive)
        run_ctffind(settings.executable, answers, root, settings.given_spectra, stop)
    finally:
        if settings.window > 0:
            os.unlink(link)
