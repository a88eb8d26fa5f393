"""What is looked at before a refinement starts, so that a mistake costs seconds instead of hours.

`check_run` finds everything that the files can tell and raises one UserError with a sentence for each
problem; what is merely worth knowing comes back as sentences to be told.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import check_parameters, check_tube
from relion_py.compute.geometry.symmetry import canonical
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.io.mrc import check_size, read_header
from relion_py.compute.io.particles import OpticsGroup, ParticleTable
from relion_py.compute.post.local_symmetry_files import read_regions
from relion_py.compute.post.sharpening import read_detectors
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import SAME_PIXEL_SIZE, file_of_reference

_GIGABYTE = 1024**3
_MINIMUM_BOX = 16  # pixels
_CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
"""The first is needed; without the others the CTF has no astigmatism (ctf.cpp, readByGroup)."""
_FEW_PARTICLES = 10  # per scale group
_BYTES_PER_PARTICLE_ROW = 600  # of _data.star


def check_run(options: RefineOptions, particles: ParticleSet) -> list[str]:
    """Raise UserError for what cannot work; give back what should be told.

    Reads headers, not images. For a new run also the reference is looked at; what `--trust_ref_size` does
    with it is told by `reference.py`.
    """
    problems: list[str] = []

    def collect(check: Callable[[], Iterator[str]]) -> None:
        try:
            problems.extend(check())
        except UserError as error:
            problems.append(str(error))

    collect(lambda: _symmetry(options))
    collect(lambda: _optics(particles))
    collect(lambda: _stacks(particles, particles.table))
    others = particles.images_to_reconstruct
    if others is not None and options.auto_refine:
        collect(lambda: _stacks(particles, others))
    if options.ctf:
        collect(lambda: _ctf(particles))
    collect(lambda: _maps(options, particles))
    collect(lambda: _diameter(options, particles))
    collect(lambda: _helix(options, particles))
    collect(lambda: _output(options, particles))
    collect(lambda: _memory(options, particles))
    collect(lambda: _norms(options, particles))
    collect(lambda: _halves(options, particles))
    if problems:
        raise UserError(" ".join(dict.fromkeys(problems)))
    return list(_notes(options, particles))


# ------------------------------------------------------------------------------------ one check after another


def _symmetry(options: RefineOptions) -> Iterator[str]:
    canonical(options.symmetry)
    return iter(())


def _optics(particles: ParticleSet) -> Iterator[str]:
    path = particles.table.path
    groups = particles.table.optics_groups
    read_detectors(groups)
    for group in groups:
        if group.box_size <= 0:
            yield f"{path}: optics group {group.name} has no _rlnImageSize; add it to data_optics."
            return
    for box in dict.fromkeys(group.box_size for group in groups):
        if box % 2:
            yield f"{path}: the box of {box} pixels is odd; extract the particles with an even number of pixels."
        elif box < _MINIMUM_BOX:
            yield f"{path}: the box of {box} pixels is too small to be refined."
    for group in groups:
        yield from _group_features(group, path)


def _group_features(group: OpticsGroup, path: str) -> Iterator[str]:
    """What an optics group has that would have to be ignored, or that cannot be understood."""
    if group.dimensionality != 2:
        yield f"{path}: optics group {group.name} holds sub-tomograms, which are not in this release."
    try:
        Aberrations.of_group(group.values, group.voltage, group.cs)
    except UserError as error:
        yield f"{path}: optics group {group.name}: {error}"


def _stacks(particles: ParticleSet, table: ParticleTable) -> Iterator[str]:
    """Every stack exists, is whole, has square images of the right size and as many as are asked for."""
    box_of_stack = np.zeros(len(table.stacks), dtype=np.int64)
    box_of_stack[table.stack_index] = particles.boxes
    missing: list[str] = []
    last = np.zeros(len(table.stacks), dtype=np.int64)
    np.maximum.at(last, table.stack_index, table.section + 1)
    for number, stack in enumerate(table.stacks):
        path = table.stack_path(stack)
        if not os.path.exists(path):
            missing.append(stack)
            continue
        header, box = read_header(path), int(box_of_stack[number])
        check_size(header)
        if header.nx != header.ny:
            yield f"The images of {stack} are {header.nx} x {header.ny} pixels; they must be square."
        elif box and header.nx != box:
            yield (
                f"The images of {stack} are {header.nx} pixels wide, but {table.path} says {box}: "
                "extract the particles again."
            )
        if last[number] > header.nz:
            yield f"{table.path} asks for image {last[number]} of {stack}, which has {header.nz}."
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield (
            f"{table.path} names {missing[0]}{more}, which cannot be found from the directory "
            f"{os.path.abspath(table.project)}: start the job in the project directory."
        )


def _ctf(particles: ParticleSet) -> Iterator[str]:
    table = particles.table
    if _CTF_COLUMNS[0] not in table:
        yield (
            f"{table.path} has no column _{_CTF_COLUMNS[0]}: estimate the CTF and extract the particles "
            "again, or leave --ctf out."
        )
        return
    for label in _CTF_COLUMNS:
        if label not in table:
            continue
        bad = np.flatnonzero(~np.isfinite(table.floats(label)))
        if len(bad):
            yield f"{table.path}: _{label} of {particles.image_name(int(bad[0]))} is not a number."
    for group in table.optics_groups:
        for label, value in (
            ("rlnVoltage", group.voltage),
            ("rlnSphericalAberration", group.cs),
            ("rlnAmplitudeContrast", group.q0),
        ):
            if not np.isfinite(value):
                yield f"{table.path}: optics group {group.name} has no _{label}, which the CTF needs."


def _maps(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    for name in options.reference_names:
        yield from _reference(name, options, particles)
    if options.has_solvent_mask:
        yield from _map(options.solvent_mask, "solvent mask", "--solvent_mask")
    if options.has_level_mask:
        yield from _map(options.solvent_mask2, "second solvent mask", "--solvent_mask2")
    if options.has_lowpass_mask:
        yield from _map(options.lowpass_mask, "mask", "--lowpass_mask")
    if options.has_local_symmetry:
        for region in read_regions(options.local_symmetry):
            yield from _map(region.mask, f"mask that {options.local_symmetry} names", "--local_symmetry")
            width = read_header(region.mask).nx if os.path.exists(region.mask) else particles.box_size
            if width != particles.box_size:
                yield (
                    f"The mask {region.mask} of --local_symmetry has {width} pixels along a side, the references will "
                    f"have {particles.box_size}: make it again."
                )
    if options.tau_spectrum not in ("", "None") and not os.path.exists(options.tau_spectrum):
        yield f"The tau2 spectrum {options.tau_spectrum} does not exist: name another with --tau."


def _map(path: str, what: str, flag: str) -> Iterator[str]:
    if not os.path.exists(path):
        yield f"The {what} {path} does not exist: name another with {flag}."
        return
    header = read_header(path)
    check_size(header)
    if not header.nx == header.ny == header.nz:
        yield f"The {what} {path} is {header.nx} x {header.ny} x {header.nz}; it must be a cube."


def _reference(name: str, options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    path = file_of_reference(name)
    if not os.path.exists(path):
        yield f"The reference {path} does not exist: name another with --ref."
        return
    header = read_header(path)
    check_size(header)
    nx, ny, nz = header.nx, header.ny, header.nz
    if options.reference_dimensions == 3 and not nx == ny == nz:
        yield f"The reference {name} is {nx} x {ny} x {nz}; it must be a cube."
        return
    own = options.ref_angpix if options.ref_angpix > 0 else header.pixel_size
    if own <= 0:
        yield f"The header of {name} has no pixel size: give it with --ref_angpix, in A."
        return
    if particles.box_size <= 0:
        return  # told by `_optics`
    differs = abs(own - particles.pixel_size) > SAME_PIXEL_SIZE or nx != particles.box_size
    if differs and not options.trust_ref_size:
        yield (
            f"The reference {name} has {nx} pixels of {own:g} A and the particles "
            f"{particles.box_size} of {particles.pixel_size:g} A: add --trust_ref_size to have it rescaled."
        )


def _diameter(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    diameter = options.mask_diameter(particles.box_size, particles.pixel_size)
    if diameter < 4 * particles.pixel_size and particles.box_size > 0:
        yield f"--particle_diameter of {diameter:g} A is less than four pixels: give a larger one, in A."


def _helix(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    if not options.masks_tubes:
        return
    box, pixel_size = particles.box_size, particles.pixel_size
    tube = options.tube(box, pixel_size)
    if options.helical_symmetry and options.has_reference:
        ranges = options.helical_ranges if options.helical_symmetry_search else (None, None)
        check_parameters(
            tube, options.helical_twist, options.helical_rise, box, pixel_size, options.helical_units, *ranges
        )
    else:
        check_tube(tube, box, pixel_size)
    missing = particles.tilt_prior is None or particles.psi_prior is None
    if missing and not ("rlnAngleTilt" in particles.table and "rlnAnglePsi" in particles.table):
        yield (
            f"{particles.table.path} has no _rlnAngleTiltPrior and _rlnAnglePsiPrior, which helical segments need: "
            "extract them as helical segments."
        )
    if options.helical_sigma_distance >= 0 and (particles.tube is None or particles.track is None):
        yield (
            f"{particles.table.path} has no _rlnHelicalTubeID and _rlnHelicalTrackLengthAngst, which "
            "--helical_sigma_distance needs: extract them as helical segments."
        )


def _output(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    directory = os.path.dirname(options.output_root) or "."
    if not os.path.isdir(directory):
        yield f"The output directory {directory} does not exist: make it first."
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        yield f"The output directory {directory} cannot be written to: ask for the right to, or take another."
        return
    free = shutil.disk_usage(directory).free
    needed = bytes_per_iteration(particles)
    if free < needed:
        yield (
            f"The disc of {directory} has {free / 1e6:.0f} MB free and one iteration writes about "
            f"{needed / 1e6:.0f} MB: make room first."
        )


def bytes_per_iteration(particles: ParticleSet) -> int:
    """About what one iteration writes: two maps (four with unfiltered ones) and the particles."""
    return 4 * 4 * particles.box_size**3 + _BYTES_PER_PARTICLE_ROW * len(particles) + 2_000_000


def _memory(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    if not options.preread_images:
        return
    import psutil

    available = psutil.virtual_memory().available
    if particles.preread_bytes > available:
        yield (
            f"--preread_images needs {_gigabytes(particles.preread_bytes)} and {_gigabytes(available)} "
            "of memory are free: run without it, with --scratch_dir if there is a fast local disc."
        )


def _norms(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    wrong = np.flatnonzero(particles.norm_correction <= 0)
    if options.do_norm_correction and len(wrong):
        yield (
            f"{particles.table.path}: _rlnNormCorrection of {particles.image_name(int(wrong[0]))} is not positive: "
            "remove the column, and it is found anew."
        )


def _halves(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    if len(particles) < 2 and options.auto_refine:
        yield f"{particles.table.path} has one particle; auto-refinement needs at least one in each half."


def _notes(options: RefineOptions, particles: ParticleSet) -> Iterator[str]:
    if options.preread_images:
        size = _gigabytes(particles.preread_bytes)
        yield f"Reading all {len(particles)} particles into memory takes {size}."
    length = min(group.box_size * group.pixel_size for group in particles.table.optics_groups)
    diameter = options.mask_diameter(particles.box_size, particles.pixel_size)
    if diameter > length:
        yield (
            f"WARNING: --particle_diameter of {diameter:g} A does not fit into the box of {length:g} A, so that no "
            "solvent is masked: give a smaller one, or extract the particles with a larger box."
        )
    few = int((particles.particles_per_group() < _FEW_PARTICLES).sum())
    if few and options.do_scale_correction and particles.nr_groups > 1:
        yield (
            f"{few} of {particles.nr_groups} micrographs have fewer than {_FEW_PARTICLES} particles, so that "
            "their intensity scale is uncertain; give several the same _rlnGroupName."
        )
    if options.has_reference and options.ini_high <= 0 and not options.continue_from:
        yield "The reference is not filtered at the start (--ini_high): its detail may bias the result."
    if options.auto_refine and options.tau2_fudge_factor > 1:
        yield (
            f"--tau2_fudge of {options.tau2_fudge_factor:g} inflates the resolution that is reported: "
            "trust only what post-processing finds."
        )


def _gigabytes(size: float) -> str:
    return f"{size / _GIGABYTE:.2f} GB"
