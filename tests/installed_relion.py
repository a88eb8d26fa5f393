"""Where the reference's own programs are: this package's programs have the same names and may come first."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest


def installed_relion(program: str) -> str | None:
    """Path of a compiled program of RELION on the PATH or in /usr/bin; None if there is none."""
    for directory in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]:
        path = Path(directory) / program
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    return str(path)
    return None


def old_relion(project: Path, name: str, words: list[str], last: str, seconds: float) -> Path:
    """Runs the installed relion_refine until it has written a file; its output directory."""
    program = installed_relion("relion_refine")
    if program is None:
        pytest.skip("no compiled relion_refine is installed")
    out = project / name
    out.mkdir()
    with open(out / "log", "w") as log:
        process = subprocess.Popen(
            [program, *words, "--o", f"{name}/run"], cwd=project, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + seconds
        while not (out / last).exists():
            if time.monotonic() > end or process.poll() is not None:
                pytest.fail((out / "log").read_text()[-2000:])
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return out
