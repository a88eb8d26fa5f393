"""Things that the tests of job types share."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

OPTICS = """data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_rlnImageSize #3
1 1.5 64

"""

PARTICLES = """data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
000001@Extract/job002/a.mrcs 10000.0
000002@Extract/job002/a.mrcs 11000.0
"""


def write_map(path: Path, size: int, pixel: float = 1.5, depth: int | None = None) -> None:
    """An MRC file of zeros, with the header fields that MRC2014 asks for."""
    depth = size if depth is None else depth
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, size, size, depth, 2)
    struct.pack_into("<3i", head, 28, size, size, depth)
    struct.pack_into("<3f", head, 40, size * pixel, size * pixel, depth * pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(head) + bytes(4 * size * size * depth))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two particles of 64 pixels, a reference and a mask that fit them, and a pipeline of
    these."""
    (tmp_path / "parts.star").write_text(OPTICS + PARTICLES)
    write_map(tmp_path / "ref.mrc", 64)
    write_map(tmp_path / "mask.mrc", 64)
    (tmp_path / "default_pipeline.star").write_text(
        "data_pipeline_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n"
        "parts.star ParticleGroupMetadata.star.relion\nref.mrc DensityMap.mrc\nmask.mrc Mask3D.mrc\n"
    )
    return tmp_path
