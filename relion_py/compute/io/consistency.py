"""Does a particle STAR file agree with its images? A report for particles that come from somewhere else.

Each finding is one sentence that says what is wrong, where, and what it means for a refinement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from relion_py.compute.io import mrc
from relion_py.compute.io.particles import OpticsGroup, ParticleTable
from relion_py.compute.io.star import StarError

SAMPLE = 50
"""Images of each optics group whose pixels are looked at."""

_CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
_OPTICS_VALUES = (
    ("voltage", "rlnVoltage"),
    ("cs", "rlnSphericalAberration"),
    ("q0", "rlnAmplitudeContrast"),
    ("pixel_size", "rlnImagePixelSize"),
)


def check_particles(table: ParticleTable, look_at_pixels: bool = True) -> list[str]:
    """Sentences about everything in which the table and its images disagree; empty if all is well.

    Looked at: optics groups, CTF columns, image names; of every stack that it is there, whole, square, of the
    right box and pixel size and long enough; and in a sample of images (look_at_pixels) pixels that are no
    numbers, the normalisation of the background and the sign of the contrast. Nothing is changed.
    """
    report: list[str] = []
    steps: list[Callable[[ParticleTable], Iterator[str]]] = [_optics, _ctf, _names, _stacks]
    if look_at_pixels:
        steps.append(_pixels)
    for step in steps:
        try:
            report.extend(step(table))
        except StarError as error:
            report.append(str(error))
    return list(dict.fromkeys(report))


def _optics(table: ParticleTable) -> Iterator[str]:
    groups = table.optics_groups
    for field, label in _OPTICS_VALUES:
        lacking = [group.name for group in groups if math.isnan(getattr(group, field))]
        if lacking:
            yield f"Optics group {_some(lacking)} has no _{label}; particles cannot be refined without it."
    for group in groups:
        if not math.isnan(group.q0) and not 0 <= group.q0 <= 1:
            yield f"Optics group {group.name}: amplitude contrast {group.q0:g} is not between 0 and 1."
        if group.voltage > 2000:
            yield f"Optics group {group.name}: the voltage {group.voltage:g} should be in kV, such as 300."
    for what, values in (
        ("number", [str(group.number) for group in groups]),
        ("name", [group.name for group in groups]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            yield f"Several optics groups have the same {what}: {_some(twice)}."
    unused = [group.name for index, group in enumerate(groups) if not np.any(table.group_index == index)]
    if unused:
        yield f"No particle is in optics group {_some(unused)}."


def _ctf(table: ParticleTable) -> Iterator[str]:
    missing = [label for label in _CTF_COLUMNS if label not in table]
    if missing:
        yield (
            f"There is no column _{', _'.join(missing)}: the particles cannot be corrected for the CTF; "
            "refine them without CTF correction or take the values from a CTF estimation."
        )
    if "rlnDefocusU" in table:
        defocus = table.floats("rlnDefocusU")
        odd = np.count_nonzero((np.abs(defocus) < 100) | (np.abs(defocus) > 200_000))
        if odd:
            yield f"{odd} particles have a defocus (_rlnDefocusU) outside 100 to 200,000 A."
        negative = np.count_nonzero(defocus < -100)
        if negative:
            yield f"{negative} particles have a negative defocus; in RELION underfocus is positive."


def _names(table: ParticleTable) -> Iterator[str]:
    names = Counter(zip(table.stack_index.tolist(), table.section.tolist(), strict=True))
    twice = [place for place, count in names.items() if count > 1]
    if twice:
        stack, section = twice[0]
        yield (
            f"{len(twice)} images are listed more than once, such as {section + 1}@{table.stacks[stack]}: "
            "duplicates make resolutions look better than they are."
        )


def _stacks(table: ParticleTable) -> Iterator[str]:
    missing: list[str] = []
    groups, members = table.optics_groups, table.group_index
    order = np.argsort(table.stack_index, kind="stable")
    starts = np.searchsorted(table.stack_index[order], np.arange(len(table.stacks) + 1))
    for number, stack in enumerate(table.stacks):
        rows = order[starts[number] : starts[number + 1]]
        try:
            header = mrc.read_header(table.stack_path(stack))
            mrc.check_size(header)
        except mrc.MrcError as error:
            if "no such file" in str(error):
                missing.append(stack)
            else:
                yield str(error)
            continue
        used = [groups[index] for index in np.unique(members[rows])]
        yield from _stack_against_groups(stack, header, used)
        last = int(table.section[rows].max()) + 1
        if last > header.nz:
            yield f"Image {last} of {stack} is asked for, but the stack has {header.nz} images."
    if missing:
        yield (
            f"{len(missing)} of {len(table.stacks)} image files are missing, such as {missing[0]} "
            f"(looked for under {table.project}): paths must be relative to the project directory."
        )


def _stack_against_groups(stack: str, header: mrc.MrcHeader, groups: list[OpticsGroup]) -> Iterator[str]:
    if header.nx != header.ny:
        yield f"The images of {stack} are not square ({header.nx} x {header.ny} pixels)."
    elif header.nx % 2:
        yield f"The images of {stack} have an odd number of pixels ({header.nx}); the box must be even."
    for group in groups:
        if group.box_size and group.box_size != header.nx:
            yield (
                f"Optics group {group.name} says that the box is {group.box_size} pixels, but the images of "
                f"{stack} have {header.nx}."
            )
        # 0 and 1 A are what programs write that do not know the pixel size
        known = header.pixel_size not in (0.0, 1.0) and not math.isnan(group.pixel_size)
        if known and abs(header.pixel_size - group.pixel_size) > 0.005 * group.pixel_size:
            yield (
                f"Optics group {group.name} says {group.pixel_size:g} A per pixel, but the header of {stack} "
                f"says {header.pixel_size:g}."
            )


def _pixels(table: ParticleTable) -> Iterator[str]:
    for index, group in enumerate(table.optics_groups):
        rows = np.flatnonzero(table.group_index == index)
        if not len(rows) or group.dimensionality != 2:
            continue
        picked = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
        images = []
        for row in picked:
            try:
                images.append(table.read_images([row])[0])
            except mrc.MrcError as error:
                if "not numbers" in str(error):
                    yield str(error)
        shapes = Counter(image.shape for image in images)
        if shapes:
            box = shapes.most_common(1)[0][0]
            yield from _background(group, np.stack([image for image in images if image.shape == box]))


def _background(group: OpticsGroup, images: np.ndarray) -> Iterator[str]:
    """Contrast and normalisation. images (n, box, box).

    In RELION particles are white: their middle is brighter than the corners outside the inscribed circle,
    where the mean should be 0 and the standard deviation 1.
    """
    box = images.shape[1]
    offset = np.arange(box) - box // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    corners = images[:, radius > box / 2].astype(np.float64)
    middle = images[:, radius < box / 4].astype(np.float64).mean(axis=1)
    spread, mean = corners.std(axis=1), corners.mean(axis=1)
    if np.any(spread == 0):
        flat = np.count_nonzero(spread == 0)
        yield f"Optics group {group.name}: {flat} of the images looked at are flat outside the particle."
        return
    contrast = (middle - mean) / spread
    error = contrast.std(ddof=1) / math.sqrt(len(contrast)) if len(contrast) > 1 else math.inf
    if contrast.mean() < -5 * error:
        yield (
            f"The particles of optics group {group.name} look dark on a bright background; RELION expects "
            "them white: invert their contrast."
        )
    if abs(np.median(spread) - 1) > 0.2 or abs(np.median(mean)) > 0.2:
        yield (
            f"The images of optics group {group.name} are not normalised: outside the particle the mean is "
            f"{np.median(mean):.3g} and the standard deviation {np.median(spread):.3g} instead of 0 and 1."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
