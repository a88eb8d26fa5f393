"""The input of picking: a list of micrographs of 2 A per pixel in the current directory."""

from __future__ import annotations

from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table


def write_input(names: list[str], defocus: tuple[float, float] = (12000.0, 11500.0)) -> None:
    """Writes micrographs.star; defocus: U and V of all, in A."""
    optics = Table(
        {
            "rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1], "rlnMicrographOriginalPixelSize": [2.0],
            "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
            "rlnMicrographPixelSize": [2.0],
        }
    )  # fmt: skip
    count = len(names)
    rows = Table(
        {
            "rlnMicrographName": names, "rlnOpticsGroup": [1] * count, "rlnDefocusU": [defocus[0]] * count,
            "rlnDefocusV": [defocus[1]] * count, "rlnDefocusAngle": [25.0] * count,
        }
    )  # fmt: skip
    star.write("micrographs.star", StarFile([("optics", optics), ("micrographs", rows)]))
