"""Subtraction of projections of bodies that have moved against each other, after a multi-body refinement.

The body that overlaps most with the density to keep gives the particles their new poses; all bodies, also what of that
one is not kept, are projected at their own last poses. Geometry: `bodies`.

Facts: RELION 5, particle_subtractor.cpp (initialise, subtractOneParticle). There the others are subtracted up to half a
pixel away from where they are, here exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.refine.bodies import Bodies, moved
from relion_py.compute.refine.body_images import project_bodies
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.subtraction import Images, Subtraction, nearest_pixels, rolled


@dataclass
class BodySubtraction(Subtraction):
    """What is subtracted from the particles of a multi-body refinement.

    body: number of the one that is kept, from 0. centre: without one, particles are centred on that of the box.
    """

    bodies: Bodies = field(kw_only=True)
    body: int = field(init=False)

    def __post_init__(self) -> None:
        if self.mask is None:
            raise UserError("Subtraction after a multi-body refinement needs the density to keep: give --mask.")
        if not len(self.bodies) == self.models[0].nr_classes == len(self.particles.bodies):
            raise UserError(
                f"{self.bodies.path} has {len(self.bodies)} bodies, but {self.particles.table.path} has poses of "
                f"{len(self.particles.bodies)} and the refinement maps of {self.models[0].nr_classes}."
            )
        self.ignore_class = True
        if self.mask.shape == self.bodies[0].mask.shape:
            overlap = [float((one.mask * self.mask).sum(dtype=np.float64)) for one in self.bodies.bodies]
            self.body = int(np.argmax(overlap))
            if overlap[self.body] <= 0:
                raise UserError("The mask of the density to keep does not overlap with any of the bodies.")
        super().__post_init__()
        if self.centre is None:
            self.centre = np.zeros(3)

    def _transforms(self, model: ModelState) -> list[FourierReference]:
        assert self.mask is not None
        rest, transforms = 1.0 - np.asarray(self.mask, np.float32), []
        for number, volume in enumerate(model.references):
            own = self.bodies.subtracted(self.body, number)
            inside = volume * ((self.bodies[number].mask if own is None else own) * rest)
            centred = moved(inside, -self.bodies[number].centre)
            transforms.append(FourierReference.from_map(centred, model.current_size, model.padding_factor))
        return transforms

    def _in_place(
        self, index: NDArray[np.int64], half: int, k: int, kx: NDArray, ky: NDArray, distortion: NDArray
    ) -> NDArray[np.complex64]:
        """Projections (N, P) of all bodies where they are in the images, without CTF."""
        return project_bodies(
            self.bodies, list(enumerate(self.references[half])), self.particles, index, kx, ky, self.box,
            self.pixel_size, self.pixel_size, distortion,
        )  # fmt: skip

    def _own(self, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Consensus Euler matrices and those of the body that is kept, (N, 3, 3)."""
        p, poses = self.particles, self.particles.bodies[self.body]
        consensus = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
        residual = euler_to_matrix(poses.rot[index], poses.tilt[index], poses.psi[index])
        return consensus, self.bodies[self.body].own_matrices(consensus, residual)

    def centred(self, index: NDArray[np.int64], images: Images) -> tuple[Images, NDArray[np.float64]]:
        """As `Subtraction.centred`, in two steps of whole pixels: to the body, and to the new centre."""
        assert self.centre is not None
        poses, place = self.particles.bodies[self.body], self.bodies[self.body].centre
        consensus, own = self._own(index)
        to_body = self._offset(index) - (consensus @ place)[:, :2]
        whole = nearest_pixels(to_body)
        residual = np.stack([poses.origin_x[index], poses.origin_y[index]], axis=1) / self.pixel_size
        wanted = to_body - whole + residual + (own @ (place - self.centre))[:, :2]
        then = nearest_pixels(wanted)
        return rolled(images, whole + then), (wanted - then) * self.pixel_size

    def angles(self) -> NDArray[np.float64]:
        """Those of the body that is kept."""
        _, own = self._own(np.arange(len(self.particles)))
        return np.stack(matrix_to_euler(own))
