"""Picking with the neural network Topaz, the user's own program: micrographs for it, what it is told, its picks.

It is called with a list of arguments, never through a shell. Micrographs are shrunk and normalised here, as RELION
does, and thrown away afterwards.

Source: RELION 5, autopicker.cpp (initialise, preprocessMicrographTopaz, trainTopaz, autoPickTopazOneMicrograph,
readTopazCoordinates); Bepler et al. (2019) Nat Methods 16, 1153-1160.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.image import fft
from relion_py.compute.io.mrc import read_image, write_map
from relion_py.compute.io.star import Table
from relion_py.compute.picking.autopick_files import Micrograph
from relion_py.compute.picking.micrograph import Image, round_half_up

_RECEPTIVE_FIELD = 71  # pixels that the network (resnet8) sees
_SMALLEST_DOWNSCALE = 4
_NO_CONTRAST = 1e-10


@dataclass(frozen=True)
class TopazSettings:
    """What Topaz is told.

    program: its words. downscale: micrographs are made so many times smaller. radius: downscaled pixels; None leaves
    it to Topaz. device: of the GPU; -1 for the CPU; None leaves it to Topaz. model: path, or "" for the general one.
    extra: more arguments. filaments: pick these, of at least `filament_length` downscaled pixels (0: any), with plots.
    """

    program: tuple[str, ...]
    downscale: int
    radius: int | None
    device: int | None = -1
    threshold: float = -6.0
    model: str = ""
    extra: tuple[str, ...] = ()
    filaments: bool = False
    filament_length: int = 0
    filament_plots: bool = False
    particles: int = 200
    workers: int = 1

    def extract_command(self, image: str, output: str) -> list[str]:
        """The words that pick one image."""
        words = [*self.program, "extract"]
        if self.filaments:
            words.append("--filaments")
            if self.filament_length > 0:
                words += ["--filaments_length", str(self.filament_length)]
            if self.filament_plots:
                words.append("--filaments_plot")
        words += ["-t", f"{self.threshold:g}", "-r", str(self.radius)]
        if self.device is not None:
            words += ["-d", str(self.device)]
        words += ["-x", str(self.downscale)]
        if self.model:
            words += ["-m", self.model]
        return [*words, "-o", output, image, *self.extra]

    def train_command(self, directory: str, lists: str) -> list[str]:
        """The words that train a network. directory: of the models; lists: of what to train with."""
        words = [*self.program, "train", "-n", str(self.particles)]
        if self.radius is not None:
            words += ["-r", str(self.radius)]
        if self.device is not None:
            words += ["-d", str(self.device)]
        return [
            *words, "-o", f"{directory}model_training.txt",
            f"--num-threads={self.workers}", f"--num-workers={self.workers}",
            f"--train-images={lists}image_list_train.txt", f"--test-images={lists}image_list_test.txt",
            f"--train-targets={lists}target_list_train.txt", f"--test-targets={lists}target_list_test.txt",
            f"--save-prefix={directory}model", *self.extra,
        ]  # fmt: skip


def find_topaz(given: str) -> tuple[str, ...]:
    """The words that start Topaz: a path or a name on the PATH, or such with arguments of its own. UserError if it
    is not there."""
    for words in ((given,), tuple(_split(given, "--fn_topaz_exe"))):
        path = shutil.which(words[0]) if words and words[0] else None
        if path:
            return (path, *words[1:])
    raise UserError(
        f"There is no Topaz program {given or 'given'}: install Topaz and give its path with --fn_topaz_exe, or pick "
        "with --ref or --LoG."
    )


def extra_arguments(text: str) -> tuple[str, ...]:
    """The words of --topaz_args."""
    return tuple(_split(text, "--topaz_args"))


def _split(text: str, flag: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{flag} has a quote without its partner ({error}).") from None


def downscale_for(diameter: float, angpix: float) -> int:
    """How many times smaller micrographs are made, so that the network sees two diameters (A); at least 4."""
    return max(_SMALLEST_DOWNSCALE, round_half_up(2 * diameter / angpix / _RECEPTIVE_FIELD))


def radius_for(diameter: float, angpix: float, downscale: int, training: bool) -> int:
    """Downscaled pixels from the particle's diameter (A): half of it, or a quarter of that for training."""
    return max(1, round_half_up(diameter / ((8 if training else 2) * angpix * downscale)))


def shrunk_micrograph(image: Image, downscale: int) -> Image:
    """The lowest frequencies of a micrograph (ny, nx), with mean 0 and standard deviation 1; UserError for one that
    cannot be used."""
    if not np.isfinite(image).all():
        raise UserError("it holds values that are not numbers (NaN or infinity).")
    rows, columns = (length // downscale for length in image.shape)
    if min(rows, columns) < 2:
        raise UserError(f"it has {image.shape[1]} x {image.shape[0]} pixels; too few to be made {downscale} x smaller.")
    transform = fft.rfft2(image.astype(np.float32))
    kept = np.r_[0 : (rows + 1) // 2, len(transform) - rows // 2 : len(transform)]
    small = fft.irfft2(transform[kept, : columns // 2 + 1], s=(rows, columns))
    deviation = small.std(dtype=np.float64)
    if deviation < _NO_CONTRAST * max(1.0, np.abs(small).max()):
        raise UserError("it is empty: every pixel is the same.")
    return ((small - small.mean(dtype=np.float64)) / deviation).astype(np.float32)


class TopazMethod:
    """Picking with Topaz, one process per micrograph. directory: where its files may be for a while."""

    def __init__(self, settings: TopazSettings, directory: str, stop: threading.Event) -> None:
        self._settings, self._directory, self._stop = settings, directory, stop

    def pick(self, micrograph: Micrograph, root: str, number: int) -> Table:
        """See :class:`~relion_py.compute.picking.autopick.Method`."""
        os.makedirs(self._directory, exist_ok=True)
        start = f"{self._directory}mic{number:06d}"
        image, output, log = f"{start}.mrc", f"{start}.txt", f"{start}.log"
        small = shrunk_micrograph(read_image(micrograph.name)[0], self._settings.downscale)
        write_map(image, small, micrograph.angpix * self._settings.downscale)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(output)
        try:
            with open(log, "wb") as file:
                status = run_topaz(self._settings.extract_command(image, output), self._stop, file)
            if status or not os.path.exists(output):
                raise UserError(f"Topaz ended with status {status}{_last_line(log)}; all that it said is in {log}.")
            picks = read_topaz_picks(output)
            os.unlink(log)
        finally:
            for path in (image, output):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        return picks


def run_topaz(command: Sequence[str], stop: threading.Event, output: IO[bytes] | None = None) -> int:
    """Run Topaz to its end and return its exit status; Aborted, and it is ended, once `stop` is set.

    output: where all that it says goes; None: where this program's goes.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=None if output is None else subprocess.STDOUT
    ) as process:
        try:
            while True:
                try:
                    return process.wait(0.5)
                except subprocess.TimeoutExpired:
                    if stop.is_set():
                        raise Aborted("The job was asked to stop.") from None
        except BaseException:
            process.kill()
            raise


def read_topaz_picks(path: str) -> Table:
    """Coordinates (pixels of the micrograph) and scores of a file of Topaz; class and angle are dummies.

    UserError for a file that has no columns x_coord, y_coord and score, or other words where numbers should be.
    """
    with open(path, errors="replace") as file:
        lines = [line.split() for line in file if line.strip()]
    header = lines[0] if lines else []
    wanted = {}
    for name in ("x_coord", "y_coord", "score"):
        places = [place for place, word in enumerate(header) if name in word]
        if not places:
            raise UserError(f"{path} is no list of picks of Topaz: it has no column {name}.")
        wanted[name] = places[-1]
    try:
        values = np.array([[float(line[place]) for place in wanted.values()] for line in lines[1:]]).reshape(-1, 3)
    except (ValueError, IndexError):
        raise UserError(f"{path} is no list of picks of Topaz: a line of it has no numbers.") from None
    return Table(
        {
            "rlnCoordinateX": values[:, 0],
            "rlnCoordinateY": values[:, 1],
            "rlnAutopickFigureOfMerit": values[:, 2],
            "rlnClassNumber": [0] * len(values),
            "rlnAnglePsi": [0.0] * len(values),
        }
    )


def _last_line(path: str) -> str:
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return f' and "{lines[-1]}"' if lines else ""
