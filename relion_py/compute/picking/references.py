"""References of template matching: class averages, projections of a map, or a Gaussian, as the micrographs need them.

Source: RELION 5, autopicker.cpp (initialise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.fourier import disc_pixels, real_image, resize_map, scatter, window_map
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image, read_stack
from relion_py.compute.picking.micrograph import Image, round_half_up

GAUSSIAN = "gauss"
"""What --ref says for a Gaussian blob."""

_SAME_PIXEL_SIZE = 1e-3
_CORNER = 1e-6  # what differs by more from the first pixel is no background


@dataclass(frozen=True)
class ReferenceSettings:
    """Where references come from and what is done with them.

    source: an MRC stack or map, a STAR file of class averages, or "gauss". pixel_size (A) of the references; not
    positive: see :func:`read_references`. diameter (A) of the circle that holds the particle; not positive: what is
    not background on the middle row. shrink_mask: pixels by which the circle is made smaller. invert: the particles
    of the micrographs have the other contrast. gauss_max: height of the Gaussian. healpix_order, symmetry, lowpass
    (A), padding: of the projections of a map.
    """

    source: str
    pixel_size: float = -1.0
    diameter: float = -1.0
    shrink_mask: int = 2
    invert: bool = False
    gauss_max: float = 0.1
    healpix_order: int = 1
    symmetry: str = "C1"
    lowpass: float = -1.0
    padding: float = 2.0

    @property
    def is_gaussian(self) -> bool:
        """Whether the reference is a Gaussian blob; it has neither directions nor a CTF."""
        return self.source == GAUSSIAN


@dataclass(frozen=True)
class References:
    """References in the pixels of the micrographs.

    images: float32 (R, box, box), centre at box // 2, 0 outside the circle. radius: of the circle, pixels; its
    inside is where the squared distance is less than the square of it. diameter: A. projections: what the images
    were projected to from a map, before anything was done with them, or None; pixel_size: A of the projections.
    """

    images: Image
    radius: int
    diameter: float
    projections: Image | None = None
    pixel_size: float = 0.0

    @property
    def box(self) -> int:
        """Pixels of a side."""
        return self.images.shape[-1]

    def inside(self) -> NDArray[np.bool_]:
        """The circle (box, box)."""
        return squared_distance(self.box) < self.radius**2


def squared_distance(box: int) -> NDArray[np.int64]:
    """Squared distances (box, box), in pixels, from the centre, box // 2."""
    axis = np.arange(box, dtype=np.int64) - box // 2
    return axis[:, None] ** 2 + axis**2


def load_references(how: ReferenceSettings, angpix: float) -> References:
    """References for micrographs of `angpix` A per pixel; UserError where they cannot be used."""
    projections = None
    if how.is_gaussian:
        images, pixel_size = _gaussian(how, angpix)[None], how.pixel_size
    else:
        images, pixel_size, is_map = read_references(how)
        if is_map:
            images = projections = _project(images, how, pixel_size if pixel_size > 0 else angpix)
    pixel_size = pixel_size if pixel_size > 0 else angpix
    diameter = how.diameter if how.diameter > 0 else float(np.mean([_extent(image) for image in images])) * pixel_size
    scaled = _rescaled(images, pixel_size, angpix)
    box = scaled.shape[-1]
    if diameter > box * angpix:
        raise UserError(
            f"The particle diameter, {diameter:g} A, is larger than the box of the references, {box * angpix:g} A; "
            "lower --particle_diameter, or correct --angpix_ref."
        )
    radius = round_half_up(diameter / (2 * angpix)) - how.shrink_mask
    if radius < 1:
        raise UserError(
            f"Nothing is left of a particle with a diameter of {diameter:g} A; raise --particle_diameter, or lower "
            "--shrink_particle_mask."
        )
    inside = squared_distance(box) < radius**2
    masked = np.where(inside, scaled, 0).astype(np.float32)
    for number, image in enumerate(masked, start=1):
        if not np.isfinite(image).all():
            raise UserError(f"Reference {number} of {how.source} holds values that are not numbers (NaN or infinity).")
        if not image.any():
            raise UserError(
                f"Reference {number} of {how.source} is empty within the particle diameter of {diameter:g} A; "
                "leave it out."
            )
    return References(-masked if how.invert else masked, radius, diameter, projections, pixel_size)


def read_references(how: ReferenceSettings) -> tuple[Image, float, bool]:
    """Images (R, box, box) or a map (box, box, box), A per pixel (0: as the micrographs), and whether it is a map.

    Without --angpix_ref the header of the first image of a STAR file is believed; that of a stack or a map is not,
    as in RELION.
    """
    path = how.source
    if path.endswith(".star"):
        images, header = _listed(path)
        size = how.pixel_size if how.pixel_size > 0 else header
    else:
        images, header = read_stack(path)
        size = how.pixel_size if how.pixel_size > 0 else 0.0
        if not path.endswith(".mrcs") and len(images) == images.shape[-1] == images.shape[-2] and len(images) > 1:
            return images, size, True
    if images.shape[-1] != images.shape[-2]:
        raise UserError(f"The references of {path} are not square: {images.shape[-1]} x {images.shape[-2]} pixels.")
    return images, size, False


def _listed(path: str) -> tuple[Image, float]:
    for table in star.read(path).values():
        for label in ("rlnReferenceImage", "rlnImageName"):
            if label in table and len(table):
                pairs = [read_image(name) for name in table.strings(label)]
                if len({image.shape for image, _ in pairs}) > 1:
                    raise UserError(f"The references of {path} have boxes of different sizes; give one size.")
                return np.stack([image for image, _ in pairs]), pairs[0][1]
    raise UserError(f"{path} lists no references: it needs a column _rlnReferenceImage or _rlnImageName.")


def _gaussian(how: ReferenceSettings, angpix: float) -> Image:
    """A blob whose standard deviation is a sixth of its box, which is 1.5 times the particle."""
    if not how.diameter > 0:
        raise UserError("A Gaussian reference needs --particle_diameter.")
    box = int(1.5 * round_half_up(how.diameter / angpix))
    box += box % 2
    blob = how.gauss_max * np.exp(-squared_distance(box) / (2 * (box / 6) ** 2))
    return blob.astype(np.float32)


def _project(volume: Image, how: ReferenceSettings, pixel_size: float) -> Image:
    """The map seen from every direction of an asymmetric unit, float32 (D, box, box)."""
    # only maps need what takes a while to load
    from relion_py.compute.geometry.healpix import Sampling
    from relion_py.compute.refine.projector import FourierReference

    box = len(volume)
    sampling = Sampling(how.healpix_order, symmetry=how.symmetry)
    current = 2 * math.ceil(box * pixel_size / how.lowpass) if how.lowpass > 0 else -1
    reference = FourierReference.from_map(volume, current, how.padding)
    rot, tilt = sampling.directions()
    kx, ky = disc_pixels(reference.r_max, include_dc=True)
    out = np.empty((len(rot), box, box), np.float32)
    for number, (one_rot, one_tilt) in enumerate(zip(rot, tilt, strict=True)):
        values = reference.project(euler_to_matrix([one_rot], [one_tilt], [0.0]), kx, ky) * np.float32(box * box)
        out[number] = real_image(scatter(values, kx, ky, box), box)[0]
    return out


def _extent(image: Image) -> int:
    """Pixels on the middle row from the first to the last that is not background (the value of the first pixel)."""
    row = image[len(image) // 2]
    differs = np.flatnonzero(np.abs(row - image[0, 0]) > _CORNER)
    if not len(differs):
        return len(row) - 1
    first = int(differs[0])
    again = np.flatnonzero(np.abs(row[first + 1 :] - image[0, 0]) < _CORNER)
    return int(again[0]) if len(again) else len(row) - 1 - first


def _rescaled(images: Image, pixel_size: float, angpix: float) -> Image:
    """Images at the pixel size of the micrographs, densities kept; less where pixels become smaller, because
    particles that were not downscaled are normalised to more noise."""
    if abs(pixel_size - angpix) <= _SAME_PIXEL_SIZE:
        return images
    if images.shape[-1] % 2:  # the last row and column go: the centre stays where it is
        images = window_map(images, images.shape[-1] - 1, 2)
    box = images.shape[-1]
    new = 2 * round_half_up(box // 2 * (pixel_size / angpix))
    if new < 2:
        raise UserError(f"Nothing is left of references of {pixel_size:g} A per pixel; correct --angpix_ref.")
    return (resize_map(images, new, 2) * np.float32(min(1.0, box / new))).astype(np.float32)
