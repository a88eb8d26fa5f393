"""Stand-ins for programs that make maps, on the PATH."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

BLUSH = """#!{python}
# Reconstructs as relion_python_blush does before its network: conventions of relion_blush/util.py.
import sys
import mrcfile
import numpy as np
import starfile
tables = starfile.read(sys.argv[1])
general, shells = tables["external_reconstruct_general"], tables["external_reconstruct_tau2"]
read = lambda label: mrcfile.read(general[label]).astype(float)
data, weight = read("rlnExtReconsDataReal") + 1j * read("rlnExtReconsDataImag"), read("rlnExtReconsWeight")
box, pad, n = int(general["rlnOriginalImageSize"]), float(general["rlnPaddingFactor"]), len(weight)
assert weight.shape == (n, n, n // 2 + 1) and n == round(pad * box) and general["rlnParticleDiameter"] == 60
k = np.fft.fftfreq(n, 1 / n)
radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(n // 2 + 1) ** 2)
prior = 1 / (shells["rlnReferenceTau2"].to_numpy() * float(general["rlnTau2FudgeFactor"]) * pad**3 + 1e-20)
prior = np.interp(radius, shells["rlnSpectralIndex"].to_numpy() * pad, prior)
inside = radius < float(general["rlnCurrentImageSize"]) * pad / 2
volume = np.fft.ifftshift(np.fft.irfftn(inside * data * (n / pad) ** 2 / (weight + prior + 1e-30)))
cut = slice(n // 2 - box // 2, n // 2 + box // 2)
axis = (np.arange(box) - box // 2.0) ** 2
volume = volume[cut, cut, cut] / np.sinc(np.sqrt(axis[:, None, None] + axis[:, None] + axis) / (box * pad)) ** 2
with mrcfile.new(general["rlnExtReconsResult"], volume.astype(np.float32), overwrite=True):
    pass
print("success")
"""


def programs_in(directory: Path) -> Callable[[str, str], None]:
    """add(name, text) puts an executable file into the directory, which is made."""
    directory.mkdir()

    def add(name: str, text: str) -> None:
        path = directory / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return add


def path_with(directory: Path) -> str:
    """The PATH with a directory in front of all else."""
    return f"{directory}{os.pathsep}{os.environ['PATH']}"
