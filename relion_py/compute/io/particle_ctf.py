"""The CTFs that a particle STAR file tells.

Facts: RELION 5, ctf.cpp (readByGroup): of a value that both tables have, the particle's own counts.
"""

from __future__ import annotations

import numpy as np

from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.particles import ParticleTable

CTF_COLUMNS = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
    "phase_shift": "rlnPhaseShift",
    "bfactor": "rlnCtfBfactor",
    "scale": "rlnCtfScalefactor",
    "voltage": "rlnVoltage",
    "cs": "rlnSphericalAberration",
    "q0": "rlnAmplitudeContrast",
}
"""Field of CtfParams -> column."""

_ABSENT = {"defocus_angle": 0.0, "phase_shift": 0.0, "bfactor": 0.0, "scale": 1.0}


def ctf_params(table: ParticleTable) -> CtfParams:
    """The CTFs of all particles, in the order of their rows.

    Without V, U counts for both; voltage, Cs and amplitude contrast are the optics group's where a particle has none
    of its own (CTF refinement may write a Cs for each).  StarError without rlnDefocusU, and for NaN.
    """
    values = {}
    for field, label in CTF_COLUMNS.items():
        if label in table:
            values[field] = table.finite(label)
        elif field in _ABSENT:
            values[field] = np.full(len(table), _ABSENT[field])
        elif field in ("defocus_u", "defocus_v"):
            values[field] = table.finite("rlnDefocusU")
        else:
            values[field] = np.nan_to_num(table.per_particle(field))
    return CtfParams(**values)
