"""Images of particles: boxes cut from a micrograph, rescaled, freed of dust, normalised, inverted.

Images are (n, box, box), rows are y and columns x as in the micrograph; the centre is pixel ``box // 2``.

Facts: RELION 5, preprocessing.cpp (extractParticlesFromOneMicrograph, performPerImageOperations) and image.cpp
(normalise, subtractBackgroundRamp, calculateBackgroundAvgStddev, removeDust).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import resize_transform, window_map

SMALLEST_SIGMA = 1e-10
"""A background with less standard deviation is constant, and its image is not divided by it."""


@dataclass(frozen=True)
class ImageOptions:
    """What is done with every image, in the order of the fields.

    scale: box (pixels, even) that images are brought to in Fourier space; 0: as they are. window: box (pixels,
    even) that they are then cut or padded to in real space; 0: as they are. normalise: subtract the mean (with
    `ramp`, a fitted plane) of the background, which is what lies more than `background_radius` pixels from the
    centre, and divide by its standard deviation. white_dust, black_dust: pixels that many standard deviations
    of the background above or below its mean are replaced by Gaussian noise before; 0 or less: none are; both
    are part of the normalisation. invert: change the sign. tube_radius: if positive, the background is what lies
    more than so many pixels (of the final image) from the axis of each image's helix, not from its centre.
    """

    scale: int = 0
    window: int = 0
    normalise: bool = False
    ramp: bool = True
    background_radius: int = -1
    white_dust: float = -1.0
    black_dust: float = -1.0
    invert: bool = False
    tube_radius: float = 0.0

    def final_box(self, box: int) -> int:
        """The box in pixels of images of `box` pixels after all operations."""
        return self.window or self.scale or box

    def check(self, box: int) -> None:
        """UserError if the options do not fit images of `box` pixels."""
        final = self.final_box(box)
        if not self.normalise:
            return
        if self.background_radius < 0:
            raise UserError("--norm needs --bg_radius, the radius (pixels) outside which is background.")
        if 2 * self.background_radius > final:
            raise UserError(
                f"--bg_radius {self.background_radius} is too large: twice the radius must not exceed the "
                f"{final} pixels of the final box."
            )
        if self.tube_radius > 0 and 2 * (self.tube_radius + 1) > final:
            raise UserError(
                f"--helical_outer_diameter is too large: the tube has {2 * self.tube_radius:g} pixels, the final box "
                f"{final}; no background would be left."
            )


def cut_boxes(
    micrograph: NDArray[np.float32],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    box: int,
    outside: float | None = None,
) -> NDArray:
    """Boxes (n, box, box) float32 of a micrograph (y, x) around the pixels x, y (n,).

    Row i of a box is row ``y - box // 2 + i``. A pixel outside the micrograph has the value of the nearest
    one inside, or `outside`. Boxes that lie wholly outside are for the caller to leave out; see :func:`touches`.
    """
    rows, columns = micrograph.shape
    reach = np.arange(box) - box // 2
    below = np.clip(y[:, None] + reach, 0, rows - 1)
    beside = np.clip(x[:, None] + reach, 0, columns - 1)
    boxes = micrograph[below[:, :, None], beside[:, None, :]]
    if outside is not None:
        beyond = (below != y[:, None] + reach)[:, :, None] | (beside != x[:, None] + reach)[:, None, :]
        boxes[beyond] = outside
    return boxes


def touches(shape: tuple[int, ...], x: NDArray[np.int64], y: NDArray[np.int64], box: int) -> NDArray[np.bool_]:
    """Which boxes around x, y (n,) hold at least one pixel of a micrograph of the shape (rows, columns)."""
    first_x, first_y = x - box // 2, y - box // 2
    across = (first_x < shape[1]) & (first_x + box > 0)
    return across & (first_y < shape[0]) & (first_y + box > 0)


def background_mask(box: int, radius: int) -> NDArray[np.bool_]:
    """True (box, box) for pixels farther than `radius` from the centre."""
    squared = (np.arange(box) - box // 2) ** 2
    return squared[:, None] + squared > radius * radius


def tube_background(box: int, radius: float, psi: float) -> NDArray[np.bool_]:
    """True (box, box) for pixels farther than `radius` from the axis of a helix whose angle psi is in degrees.

    Psi is that of a projection: the axis runs from the centre at -psi, from X (columns) towards Y (rows).
    """
    place = np.arange(box) - box // 2
    angle = np.deg2rad(psi)
    return np.abs(np.cos(angle) * place[:, None] + np.sin(angle) * place) > radius


def process_images(
    images: NDArray, options: ImageOptions, random: np.random.Generator, psi: NDArray | None = None
) -> NDArray[np.float32]:
    """Apply the operations to images (n, box, box); float32 (n, final box, final box).

    random: the noise that takes the place of dust. psi: degrees (n,), with `tube_radius`. The work is done in
    float64. The window is cut around the centre; the reference cuts it beside the centre where `scale` has
    changed the box before.
    """
    work: NDArray = images.astype(np.float64)
    if options.scale:
        work = _rescale(work, options.scale)
    if options.window:
        work = window_map(work, options.window, dimensions=2)
    if options.normalise:
        normalise(work, options, random, psi)
    if options.invert:
        np.negative(work, out=work)
    return work.astype(np.float32)


def normalise(
    images: NDArray[np.float64], options: ImageOptions, random: np.random.Generator, psi: NDArray | None = None
) -> None:
    """Normalise images (n, box, box) in place: dust, plane, mean and standard deviation of the background.

    An image whose background is constant only loses its plane. psi: the helix' angle of each, with `tube_radius`.
    """
    box = images.shape[-1]
    if options.tube_radius <= 0 or psi is None:
        _normalise(images, background_mask(box, options.background_radius), options, random)
        return
    for number, angle in enumerate(psi):
        mask = tube_background(box, options.tube_radius, float(angle))
        _normalise(images[number : number + 1], mask, options, random)


def _normalise(
    images: NDArray[np.float64], mask: NDArray[np.bool_], options: ImageOptions, random: np.random.Generator
) -> None:
    if options.white_dust > 0 or options.black_dust > 0:
        _remove_dust(images, mask, options, random)
    if options.ramp:
        _subtract_plane(images, mask)
    mean, sigma = _background(images, mask)
    usable = sigma[:, 0, 0] >= SMALLEST_SIGMA
    images[usable] = (images[usable] - mean[usable]) / sigma[usable]


def _background(images: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation (n, 1, 1) of the pixels under the mask."""
    pixels = images[:, mask]
    return pixels.mean(axis=1)[:, None, None], pixels.std(axis=1)[:, None, None]


def _remove_dust(
    images: NDArray[np.float64], mask: NDArray[np.bool_], options: ImageOptions, random: np.random.Generator
) -> None:
    mean, sigma = _background(images, mask)
    dust = np.zeros(images.shape, dtype=bool)
    if options.white_dust > 0:
        dust |= images - mean > options.white_dust * sigma
    if options.black_dust > 0:
        dust |= images - mean < -options.black_dust * sigma
    which = np.nonzero(dust)[0]
    images[dust] = mean[which, 0, 0] + sigma[which, 0, 0] * random.standard_normal(len(which))


def _subtract_plane(images: NDArray[np.float64], mask: NDArray[np.bool_]) -> None:
    """Subtract the plane a x + b y + c that fits the pixels under the mask best (least squares).

    All sums are taken along the axes first, so that no grid of x or y is multiplied with the images; and by
    einsum, as the threads of a matrix library cost more than they bring in products as small as these.
    """
    place = np.arange(images.shape[-1], dtype=np.float64) - images.shape[-1] // 2
    terms = np.stack([place, place**2, np.ones_like(place)])
    x, xx, count = np.einsum("tx,x->t", terms, mask.sum(axis=0))
    y, yy, _ = np.einsum("ty,y->t", terms, mask.sum(axis=1))
    xy = np.einsum("y,yx,x->", place, mask, place)
    under = images * mask
    columns, rows = under.sum(axis=1), under.sum(axis=2)
    moments = np.stack([(columns * place).sum(axis=1), (rows * place).sum(axis=1), rows.sum(axis=1)])
    a, b, c = np.linalg.solve(np.array([[xx, xy, x], [xy, yy, y], [x, y, count]]), moments)
    images -= (a[:, None] * place)[:, None, :]
    images -= (b[:, None] * place + c[:, None])[:, :, None]


def _rescale(images: NDArray, box: int) -> NDArray:
    """Images of another box, by a window in Fourier space (see `resize_map`).

    Corner stays corner and, boxes being even, centre stays centre, so nothing needs to be moved for it.
    """
    old = images.shape[-1]
    transform = resize_transform(fft.rfft2(images), old, box)
    return fft.irfft2(transform, s=(box, box)) * (box / old) ** 2
