"""The options of `relion_particle_subtract` (particle_subtractor.cpp)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_CENTRE = "Centring"

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "optimiser.star of the refinement or classification whose map is subtracted"),
    Flag("--o", "value", "Subtract/", "directory for all that is written"),
    Flag("--mask", "value", "", "map between 0 and 1 of the density to keep; without one everything is subtracted"),
    Flag("--data", "value", "", "STAR file of the particles, if not all of the optimiser's"),
    Flag("--ignore_class", "flag", "", "subtract the first class from all particles"),
    Flag("--revert", "value", "", "STAR file of subtracted particles: name their original images again"),
    Flag("--ssnr", "flag", "", "write only the mean spectral signal-to-noise ratio of the images"),
    Flag("--float16", "flag", "", "write images in half precision (MRC mode 12)"),
    Flag("--recenter_on_mask", "flag", "", "centre particles on the projected centre of mass of the mask", _CENTRE),
    Flag("--center_x", "value", "9999", "or of this point of the map (pixels from its centre)", _CENTRE),
    Flag("--center_y", "value", "9999", "", _CENTRE),
    Flag("--center_z", "value", "9999", "", _CENTRE),
    Flag("--new_box", "value", "-1", "box of the subtracted images (pixels)", _CENTRE),
)
