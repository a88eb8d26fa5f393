"""UCSF MotionCor2, run as the user's own program, movie by movie, and what its logs tell.

Facts: RELION 5, motioncorr_runner.cpp, executeMotioncor2 and getShiftsMotioncor2.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.movies import Movie, MovieError, is_eer, is_tiff
from relion_py.compute.motion.correct import Settings
from relion_py.compute.motion.model import NOT_OBSERVED, LocalShifts, MovieMotion


@dataclass(frozen=True)
class MotionCor2:
    """How the program is called. gain, defects, archive: paths or "". extra: more arguments."""

    executable: str
    gain: str = ""
    defects: str = ""
    archive: str = ""
    extra: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ("0",)


def find_executable(given: str) -> str:
    """The program's path: `given`, or that of RELION_MOTIONCOR2_EXECUTABLE. UserError if it is not there."""
    name = given or os.environ.get("RELION_MOTIONCOR2_EXECUTABLE", "")
    if not name:
        raise UserError(
            "MotionCor2 is not part of this release: give the path of yours with --motioncor2_exe or in "
            "RELION_MOTIONCOR2_EXECUTABLE, or use --use_own."
        )
    path = shutil.which(name)
    if path is None:
        raise UserError(f"There is no program {name}; correct --motioncor2_exe, or use --use_own.")
    return path


def extra_arguments(text: str) -> tuple[str, ...]:
    """The words of --other_motioncor2_args; UserError for what this program must know of itself."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"--other_motioncor2_args has a quote without its partner ({error}).") from None
    if any("RotGain" in word or "FlipGain" in word for word in words):
        raise UserError("Use --gain_rot and --gain_flip instead of -RotGain and -FlipGain.")
    return words


def devices(text: str, rank: int) -> tuple[str, ...]:
    """The GPUs of a rank by `--gpu`: colons between ranks, commas between the GPUs of one; none: in turn."""
    if not text.strip():
        found = len(glob.glob("/proc/driver/nvidia/gpus/*"))
        return (str(rank % max(1, found)),)
    per_rank = text.strip().split(":")
    if rank >= len(per_rank):
        raise UserError(f"--gpu {text} names GPUs for {len(per_rank)} rank(s); there are more ranks than that.")
    return tuple(word.strip() for word in per_rank[rank].split(",") if word.strip())


def command(
    program: MotionCor2,
    movie: Movie,
    output: str,
    settings: Settings,
    pixel_size: float,
    voltage: float,
    pre_exposure: float,
) -> list[str]:
    """The argument vector for one movie. MovieError for EER, and if there are fewer frames than asked for."""
    if is_eer(movie.path):
        raise MovieError(f"{movie.path}: EER movies cannot be given to MotionCor2 here; use --use_own.")
    words = [program.executable, "-InTiff" if is_tiff(movie.path) else "-InMrc", movie.path]
    words += ["-OutMrc", output, "-LogFile", os.path.splitext(output)[0]]
    words += ["-Bft", f"{settings.bfactor:g}", "-PixSize", f"{pixel_size:g}"]
    words += ["-Patch", str(settings.patch_x), str(settings.patch_y)]
    if settings.group > 1:
        words += ["-Group", str(settings.group)]
    if program.gain:
        words += ["-Gain", program.gain]
    if settings.first_frame > 1:
        words += ["-Throw", str(settings.first_frame - 1)]
    words += ["-FmRef", "0"]  # motion starts at the first frame
    if settings.last_frame > 0:
        left_out = movie.n_frames - settings.last_frame
        if left_out < 0:
            raise MovieError(f"{movie.path} has {movie.n_frames} frames, fewer than {settings.last_frame}.")
        words += ["-Trunc", str(left_out)]
    if settings.bin_factor > 1:
        words += ["-FtBin", f"{settings.bin_factor:g}"]
    if settings.dose_weighting:
        words += ["-Kv", f"{voltage:g}", "-FmDose", f"{settings.dose_per_frame:g}"]
        words += ["-InitDose", f"{pre_exposure:g}"]
    if program.defects:
        is_list = program.defects.lower().endswith(".txt")
        words += ["-DefectFile" if is_list else "-DefectMap", program.defects]
    if settings.even_odd:
        words += ["-SplitSum", "1"]
    if program.archive:
        words += ["-ArcDir", program.archive]
    return [*words, *program.extra, "-Gpu", *program.gpus]


def run_motioncor2(
    program: MotionCor2,
    movie: Movie,
    root: str,
    settings: Settings,
    pixel_size: float,
    voltage: float,
    pre_exposure: float,
) -> MovieMotion:
    """Correct one movie into `<root>.mrc`, with `.com`, `.out` and `.err` beside it; returns its motion."""
    output = root + ".mrc"
    words = command(program, movie, output, settings, pixel_size, voltage, pre_exposure)
    atomic_write(root + ".com", (shlex.join(words) + "\n").encode())
    try:
        with open(root + ".out", "wb") as out, open(root + ".err", "wb") as err:
            status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err).returncode
    except OSError as error:
        raise UserError(f"{program.executable} cannot be started: {error.strerror}.") from None
    if status != 0:
        raise MovieError(f"{movie.path}: MotionCor2 ended with status {status}; see {root}.err.")
    _rename_outputs(root, settings)
    if not os.path.exists(output):
        raise MovieError(f"{movie.path}: MotionCor2 wrote no {output}; see {root}.out and {root}.err.")
    ny, nx = movie.shape
    motion = MovieMotion(
        movie.path, nx, ny, np.full((movie.n_frames, 2), NOT_OBSERVED), max(1, settings.first_frame),
        settings.bin_factor, pixel_size, settings.dose_per_frame, pre_exposure, voltage, program.gain,
        program.defects,
    )  # fmt: skip
    with open(root + ".out", encoding="utf-8", errors="replace") as file:
        read_shifts(file.read(), motion)
    motion.local = read_patch_log(root + "0-Patch-Patch.log", motion.first_frame)
    return motion


def _rename_outputs(root: str, settings: Settings) -> None:
    """MotionCor2 writes the weighted sum as _DW.mrc; here it is the micrograph, the other _noDW.mrc."""
    if not settings.dose_weighting or not os.path.exists(root + "_DW.mrc"):
        return
    if settings.save_unweighted and os.path.exists(root + ".mrc"):
        os.replace(root + ".mrc", root + "_noDW.mrc")
    os.replace(root + "_DW.mrc", root + ".mrc")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root + "_DWS.mrc")


def read_shifts(text: str, motion: MovieMotion) -> None:
    """Put the whole-frame shifts that MotionCor2 printed (releases to 1.5, or from 1.6) into `motion`."""
    _, found, after = text.partition("Full-frame alignment shift")
    if found:
        frame = motion.first_frame
        for line in after.splitlines()[1:]:
            match = re.search(r"shift:\s*(\S+)\s+(\S+)", line)
            if not match:
                break
            _set(motion, frame, match[1], match[2])
            frame += 1
        return
    lines = iter(text.splitlines())
    for line in lines:
        if "Frame" in line and "x Shift" in line:
            break
    for line in lines:
        words = line.split()
        if len(words) < 3:
            break
        _set(motion, int(words[0]), words[1], words[2])


def _set(motion: MovieMotion, frame: int, x: str, y: str) -> None:
    try:
        motion.shifts[frame - 1] = float(x), float(y)
    except (ValueError, IndexError):
        raise MovieError(f"{motion.movie}: the shift of frame {frame} in MotionCor2's log is odd.") from None


def read_patch_log(path: str, first_frame: int) -> LocalShifts | None:
    """The shifts of patches from MotionCor2's `0-Patch-Patch.log`, or None if there is no such file."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        rows = [line.split() for line in file if "#" not in line]
    try:
        values = np.array([row for row in rows if len(row) == 7], np.float64).reshape(-1, 7)
    except ValueError:
        raise MovieError(f"{path} has a value that is no number.") from None
    frames = values[:, 0].astype(np.int64) + first_frame - 1
    return LocalShifts(frames, values[:, 1], values[:, 2], values[:, 3], values[:, 4])
