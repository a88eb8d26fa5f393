"""The options of `relion_mask_create` (apps/mask_create.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_MAP = "Mask from a map"
_NEW = "Mask from nothing"

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "map to threshold", _MAP),
    Flag("--o", "value", "mask.mrc", "name of the mask", _MAP),
    Flag("--and", "value", "", "voxels where this map, too, is above the threshold", _MAP),
    Flag("--or", "value", "", "voxels where either map is above the threshold", _MAP),
    Flag("--and_not", "value", "", "voxels above the threshold in --i and below it in this map", _MAP),
    Flag("--or_not", "value", "", "voxels above the threshold in --i or below it in this map", _MAP),
    Flag("--ini_threshold", "value", "0.01", "density of the threshold", _MAP),
    Flag("--extend_inimask", "value", "0", "extend by that many voxels; negative: shrink", _MAP),
    Flag("--width_soft_edge", "value", "0", "width of the soft edge (voxels)", _MAP),
    Flag("--invert", "flag", "", "invert the mask", _MAP),
    Flag("--helix", "flag", "", "keep only the central part along Z, for a helix", _MAP),
    Flag("--lowpass", "value", "-1", "filter the map first (A)", _MAP),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the map", _MAP),
    Flag("--z_percentage", "value", "0.3", "with --helix: part of the box's Z that is kept", _MAP),
    Flag("--j", "value", "1", "threads", _MAP),
    Flag("--denovo", "flag", "", "make a spherical shell", _NEW),
    Flag("--box_size", "value", "-1", "its box (voxels)", _NEW),
    Flag("--inner_radius", "value", "0", "inner radius (voxels)", _NEW),
    Flag("--outer_radius", "value", "99999", "outer radius (voxels)", _NEW),
    Flag("--center_x", "value", "0", "its centre, from the centre of the box (voxels)", _NEW),
    Flag("--center_y", "value", "0", "", _NEW),
    Flag("--center_z", "value", "0", "", _NEW),
)
