"""Runs the refinement program as its users do, in processes of their own, and reads what it leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
import pytest

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
MPIRUN = Path(sys.executable).parent / "mpirun"
needs_mpirun = pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")

BOX, PIXEL, DIAMETER, INI_HIGH = 32, 5.0, 110.0, 40.0
USUAL = (
    "--i particles.star --ref reference.mrc --auto_refine --split_random_halves --ctf --particle_diameter "
    f"{DIAMETER:g} --ini_high {INI_HIGH:g} --sym D2 --norm --scale --flatten_solvent --zero_mask "
    f"--oversampling 1 --healpix_order 2 --offset_range 5 --offset_step 2 "
    f"--low_resol_join_halves {INI_HIGH:g} --auto_local_healpix_order 4 --random_seed 1 "
    "--pool 30 --dont_combine_weights_via_disc"
).split()
"""The command of a 3D auto-refinement, but for the output and for what is added to it."""


@dataclass
class Run:
    """A finished or running refinement; `out` is its job directory below the project."""

    project: Path
    out: Path
    status: int | None = None
    stdout: str = ""
    stderr: str = ""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def map(self, name: str = "run_class001.mrc") -> np.ndarray:
        return np.array(mrcfile.read(self.out / name))

    def exit_files(self) -> list[str]:
        return sorted(p.name for p in self.out.glob("RELION_JOB_*"))

    def has(self, name: str) -> bool:
        return (self.out / name).exists()

    def wait(self, seconds: float) -> float:
        """Waits for the end, at most so long, and returns how long it took; kills what does not end."""
        assert self.process is not None
        began = time.monotonic()
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            pytest.fail(f"the program did not end within {seconds:g} s")
        self.status = self.process.returncode
        return time.monotonic() - began

    def until(self, sign: Callable[[], bool], seconds: float = 90.0) -> None:
        """Waits for a sign of life while the program runs."""
        assert self.process is not None
        end = time.monotonic() + seconds
        while not sign():
            if self.process.poll() is not None:
                self.wait(1)
                pytest.fail(f"the program ended too early:\n{self.stdout}\n{self.stderr}")
            if time.monotonic() > end:
                self.process.kill()
                pytest.fail(f"no sign of life for {seconds:g} s")
            time.sleep(0.02)

    def sentence(self) -> str:
        """The one sentence of a failed run; checks that it is one and that all else says failure, too."""
        assert self.status not in (0, None), self.stdout
        assert self.exit_files() == [FAILURE]
        assert "Traceback" not in self.stderr + self.stdout, self.stderr
        told = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(told) == 1 and told[0].startswith("ERROR: ") and told[0].endswith("."), self.stderr
        return told[0]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", **more}


def usual_without(*flags: str) -> list[str]:
    """The usual command less some options and their values."""
    words, keep = [], True
    for word in USUAL:
        if word.startswith("--"):
            keep = word not in flags
        if keep:
            words.append(word)
    return words


def start(project: Path, name: str, *more: str, ranks: int = 0, usual: tuple[str, ...] | list[str] = USUAL) -> Run:
    """Starts the program in `project`, under pipeline control in the directory `name`, output `name/run`."""
    out = project / name
    out.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "relion_py.compute.cli.refine", *usual]
    if "--o" not in more:
        words += ["--o", f"{name}/run"]
    words += ["--pipeline_control", f"{name}/", *more]
    if ranks:
        words = [str(MPIRUN), "-n", str(ranks), *words]
    process = subprocess.Popen(
        words, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    return Run(project, out, process=process)


def refine(project: Path, name: str, *more: str, ranks: int = 0, seconds: float = 200.0, **how: list[str]) -> Run:
    """Runs the program to its end, whatever that is."""
    run = start(project, name, *more, ranks=ranks, **how)
    run.wait(seconds)
    return run


def refined(project: Path, name: str, *more: str, ranks: int = 0, seconds: float = 200.0, **how: list[str]) -> Run:
    """Runs the program to its good end."""
    run = refine(project, name, *more, ranks=ranks, seconds=seconds, **how)
    assert run.status == 0, run.stderr + run.stdout
    assert run.exit_files() == [SUCCESS]
    return run


def copy_of(project: Path, to: Path) -> Path:
    """The data of a project without its jobs, to be damaged."""
    to.mkdir()
    for name in ("particles.star", "reference.mrc", "mask.mrc", "truth.mrc"):
        shutil.copy(project / name, to / name)
    shutil.copytree(project / "Particles", to / "Particles")
    return to


def shell_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """FSC by shell 0 ... box/2, written out once more with NumPy alone."""
    n = first.shape[0]
    a, b = np.fft.fftn(first.astype(float)), np.fft.fftn(second.astype(float))
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None] ** 2)).astype(int).ravel()

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values.real.ravel())[: n // 2 + 1]

    return total(a * b.conj()) / np.sqrt(total(abs(a) ** 2) * total(abs(b) ** 2))


def numbers(text: str, pattern: str) -> list[float]:
    """The numbers that stand behind a pattern in a log."""
    return [float(found) for found in re.findall(pattern + r"\s*([-\d.e]+)", text)]
