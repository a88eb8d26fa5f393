"""The options of `relion_particle_symmetry_expand` (apps/particle_symmetry_expand.cpp)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_HELIX = "Helix"

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of refined particles", required=True),
    Flag("--o", "value", "expanded.star", "STAR file to write"),
    Flag("--sym", "value", "C1", "point group"),
    Flag("--ignore_optics", "flag", "", "read and write without optics groups"),
    Flag("--helix", "flag", "", "expand by helical symmetry", _HELIX),
    Flag("--twist", "value", "0.", "helical twist (degrees)", _HELIX),
    Flag("--rise", "value", "0.", "helical rise (A)", _HELIX),
    Flag("--angpix", "value", "1.", "pixel size (A); the rise is in A, so that it changes nothing", _HELIX),
    Flag("--asu", "value", "1", "number of asymmetric units to expand to", _HELIX),
    Flag("--frac_sampling", "value", "1", "or number of samples within one asymmetric unit", _HELIX),
    Flag("--frac_range", "value", "0.5", "in this range of the rise, both ways", _HELIX),
)
