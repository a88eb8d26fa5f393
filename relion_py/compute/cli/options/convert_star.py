"""The options of `relion_convert_star` (apps/convert_star.cpp)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of release 3.0 or earlier", required=True),
    Flag("--o", "value", "", "STAR file to write", required=True),
    Flag("--Cs", "value", "-1", "spherical aberration (mm), where the input does not tell it"),
    Flag("--Q0", "value", "-1", "amplitude contrast, where the input does not tell it"),
    Flag("--box_size", "value", "-1", "box of 2D images (pixels), where the stacks are missing"),
)
