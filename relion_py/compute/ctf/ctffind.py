"""The user's CTFFIND, and the files that it leaves, which the built-in estimator writes as well.

Beside the diagnostic picture `<root>.ctf` these are `<root>_ctffind4.log` (what it printed; it names the
next one), `<root>.txt` (one line of results) and `<root>_avrot.txt` (profiles). So a job that was begun with
one of RELION, CTFFIND and this program can be continued with another.

Source: RELION 5, ctffind_runner.cpp (executeCtffind4, getCtffind4Results); the files of CTFFIND 4.1.14.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf.estimate import CtfFit, Microscope, Search
from relion_py.compute.ctf.quality import Profiles
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.io.atomic import atomic_write

LOG, SUMMARY, AVERAGES, PICTURE = "_ctffind4.log", ".txt", "_avrot.txt", ".ctf"
_ICE = 0.25, 0.28  # 1/A: the strongest rings of hexagonal and cubic ice


@dataclass(frozen=True)
class CtfResult:
    """defocus_u, defocus_v in A; angle and phase_shift in degrees; score: the figure of merit; resolution in
    A, to which rings fit; ice: sum of absolute ring heights from 1/4 to 1/3.57 A."""

    defocus_u: float
    defocus_v: float
    angle: float
    phase_shift: float
    score: float
    resolution: float
    ice: float = 0.0


# ------------------------------------------------------------------------------------------ files


def remove_results(root: str) -> None:
    """Take away the outputs of an earlier run, so that they are not taken for those of this one."""
    for ending in (LOG, SUMMARY, AVERAGES, PICTURE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root + ending)


def read_results(root: str) -> CtfResult | None:
    """The result in the files of `root`, or None where there is none (yet) or it cannot be read."""
    try:
        with open(root + LOG, errors="replace") as file:
            if "Summary of results" not in file.read():
                return None
        with open(root + SUMMARY, errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for index, line in enumerate(lines[:-1]):
        if line.startswith("#") and "Columns: " in line:
            return _parse_row(lines[index + 1], _ice_density(root + AVERAGES))
    return None


def _parse_row(line: str, ice: float) -> CtfResult | None:
    try:
        _, u, v, angle, phase, score, resolution = (float(word) for word in line.split()[:7])
    except ValueError:
        return None
    if not all(map(math.isfinite, (u, v, angle, phase))):
        return None
    score = score if math.isfinite(score) else 0.0
    resolution = resolution if math.isfinite(resolution) else 999.0
    return CtfResult(u, v, angle, math.degrees(phase), score, resolution, ice)


def _ice_density(path: str) -> float:
    """Sum of the absolute heights of the rotational average where ice has its rings; 0 if not known."""
    try:
        with open(path, errors="replace") as file:
            rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
        frequency, average = np.array(rows[0], float), np.array(rows[1], float)
        inside = (frequency >= _ICE[0]) & (frequency <= _ICE[1])
        total = float(np.abs(average[inside]).sum())
    except (OSError, IndexError, ValueError):
        return 0.0
    return total if math.isfinite(total) else 0.0


def write_results(
    root: str,
    source: str,
    fit: CtfFit,
    curves: Profiles,
    microscope: Microscope,
    search: Search,
    box: int,
    angpix: float,
) -> None:
    """Write what the built-in estimator found, as CTFFIND4 does; the log comes last: it says "done"."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    head = (
        f"# Output from the built-in estimator of relion_py, run on {now}\n"
        f"# Input file: {source} ; Number of micrographs: 1\n"
        f"# Pixel size: {angpix:.3f} Angstroms ; acceleration voltage: {microscope.voltage:.1f} keV ; "
        f"spherical aberration: {microscope.cs:.2f} mm ; amplitude contrast: {microscope.q0:.2f}\n"
        f"# Box size: {box} pixels ; min. res.: {search.coarsest_resolution:.1f} Angstroms ; max. res.: "
        f"{search.finest_resolution:.1f} Angstroms ; min. def.: {search.defocus_min:.1f} Angstroms; "
        f"max. def. {search.defocus_max:.1f} Angstroms\n"
    )
    columns = (
        "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of "
        "astigmatism; #5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in "
        "Angstroms) up to which CTF rings were fit successfully\n"
    )
    numbers = (1.0, fit.defocus_u, fit.defocus_v, fit.angle, math.radians(fit.phase_shift))
    row = " ".join(f"{number:.6f}" for number in (*numbers, fit.score, curves.resolution))
    atomic_write(root + SUMMARY, f"{head}{columns}{row}\n".encode())
    atomic_write(root + AVERAGES, (head + _averages(curves)).encode())
    log = (
        "Estimated by the built-in estimator of relion_py\n\n"
        f"Input image file name           : {source}\n"
        f"Estimated defocus values        : {fit.defocus_u:.2f} , {fit.defocus_v:.2f} Angstroms\n"
        f"Estimated azimuth of astigmatism: {fit.angle:.2f} degrees\n"
        f"Additional phase shift          : {fit.phase_shift:.2f} degrees\n"
        f"Score                           : {fit.score:.5f}\n"
        f"Pixel size for fitting          : {angpix:.3f} Angstroms\n"
        f"Thon rings with good fit up to  : {curves.resolution:.1f} Angstroms\n\n"
        f"Summary of results                          : {root}{SUMMARY}\n"
        f"Diagnostic images                           : {root}{PICTURE}\n"
        f"Detailed results, including 1D fit profiles : {root}{AVERAGES}\n"
    )
    atomic_write(root + LOG, log.encode())


def _averages(curves: Profiles) -> str:
    about = (
        "# 6 lines per micrograph: #1 - spatial frequency (1/Angstroms); #2 - 1D rotational average of "
        "spectrum (assuming no astigmatism); #3 - 1D rotational average of spectrum; #4 - CTF fit; #5 - "
        "cross-correlation between spectrum and CTF fit; #6 - 2sigma of expected cross correlation of noise\n"
    )
    lines = (curves.frequency, curves.round, curves.equiphase, curves.ctf, curves.agreement, curves.noise)
    return about + "".join(_line(values) for values in lines)


def _line(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values) + "\n"


# ---------------------------------------------------------------------------------------- program


def find_ctffind(given: str) -> tuple[str, str]:
    """The path of CTFFIND ("" to use the built-in estimator) and a sentence that says what is used.

    given: the value of --ctffind_exe; without one the environment variable RELION_CTFFIND_EXECUTABLE.
    UserError if the file is there and is not a program.
    """
    name = given.strip() or os.environ.get("RELION_CTFFIND_EXECUTABLE", "").strip()
    if not name:
        return "", "CTF parameters are estimated by the built-in estimator."
    path = shutil.which(name)
    if path:
        return path, f"CTF parameters are estimated by CTFFIND: {path}"
    if os.path.exists(name):
        raise UserError(f"{name} is not a program that can be executed; give the path of CTFFIND.")
    return "", f"{name} was not found, so CTF parameters are estimated by the built-in estimator."


def ctffind_answers(
    image: str, root: str, angpix: float, box: int, microscope: Microscope, search: Search, exhaustive: bool
) -> str:
    """What CTFFIND 4.1 or 5 is told on its standard input, a line for each of its questions.

    The last three answer "no" to sample tilt (asked from 4.1.15 on), sample thickness (5) and expert options;
    an older release leaves what it does not ask for unread.
    """
    phase = ["no"]
    if search.find_phase:
        degrees = (search.phase_min, search.phase_max, search.phase_step)
        phase = ["yes", *(f"{math.radians(value):.6g}" for value in degrees)]
    numbers = (
        angpix, microscope.voltage, microscope.cs, microscope.q0, box,
        search.coarsest_resolution, search.finest_resolution,
        search.defocus_min, search.defocus_max, search.defocus_step,
    )  # fmt: skip
    # known astigmatism? no; slower search?; restrain astigmatism? yes, by so many A
    middle = ["no", "yes" if exhaustive else "no", "yes", f"{search.astigmatism:.6g}"]
    lines = [image, root + PICTURE, *(f"{n:.6g}" for n in numbers), *middle, *phase, "no", "no", "no"]
    return "\n".join(lines) + "\n"


def run_ctffind(
    executable: str, answers: str, root: str, is_spectrum: bool, stop: threading.Event | None = None
) -> None:
    """Run CTFFIND on one image; what it prints goes into the log. UserError if it fails or leaves no result.

    stop: when it is set, the program is ended and Aborted raised.
    """
    arguments = [executable, *(["--amplitude-spectrum-input"] if is_spectrum else [])]
    environment = {**os.environ, "LC_ALL": "C"}
    with open(root + LOG, "wb") as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _feed_and_wait(process, answers.encode(), stop)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if read_results(root) is None:
        raise UserError(f"CTFFIND ended with status {process.returncode} and no result; see {root}{LOG}.")


def _feed_and_wait(process: subprocess.Popen[bytes], answers: bytes, stop: threading.Event | None) -> None:
    pending: bytes | None = answers
    while True:
        try:
            process.communicate(pending, timeout=0.5)
            return
        except subprocess.TimeoutExpired:
            pending = None
            if stop is not None and stop.is_set():
                raise Aborted("The job was asked to stop.") from None
