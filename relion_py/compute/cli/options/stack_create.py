"""The options of `relion_stack_create` (apps/stack_create.cpp)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file with the images (rlnImageName)", required=True),
    Flag("--o", "value", "output", "root of the output names: <root>.mrcs and <root>.star"),
    Flag("--split_per_micrograph", "flag", "", "a stack for each micrograph"),
    Flag("--apply_transformation", "flag", "", "apply shifts and in-plane rotations by interpolation"),
    Flag("--apply_rounded_offsets_only", "flag", "", "apply shifts of whole pixels only"),
    Flag("--ignore_optics", "flag", "", "read and write without optics groups"),
    Flag("--one_by_one", "flag", "", "one image at a time in memory, as it always is here"),
    Flag("--float16", "flag", "", "write half-precision numbers"),
)
