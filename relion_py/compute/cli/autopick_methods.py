"""From the options of relion_autopick to a way of picking."""

from __future__ import annotations

import glob
import math
import os
import threading
import time
from collections.abc import Sequence

from relion_py.compute.cli.options.autopick import ONLY_WITH
from relion_py.compute.cli.parser import Arguments
from relion_py.compute.cli.program import Job
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.io.outputs import write_failures
from relion_py.compute.picking.autopick import FomMaps, LogMethod, MakeMatcher, Method, PeakSettings, TemplateMethod
from relion_py.compute.picking.autopick_files import Micrograph
from relion_py.compute.picking.filament_method import FilamentMethod
from relion_py.compute.picking.filaments import FilamentSettings
from relion_py.compute.picking.log import LogSettings, diameters_of
from relion_py.compute.picking.micrograph import round_half_up
from relion_py.compute.picking.references import References, ReferenceSettings, load_references
from relion_py.compute.picking.templates import Matcher, TemplateSettings
from relion_py.compute.picking.topaz import (
    TopazMethod,
    TopazSettings,
    downscale_for,
    extra_arguments,
    find_topaz,
    radius_for,
)
from relion_py.compute.picking.topaz_training import read_particles, read_picks, train

FAILURES = "failed_micrographs.star"
PROJECTIONS = "reference_projections.mrcs"
METHODS = ("--ref", "--LoG", "--topaz_extract", "--topaz_train")
_SAME_PIXEL_SIZE = 0.01


def method_name(args: Arguments) -> str:
    """The flag that says how to pick; UserError if there is none, or more than one."""
    given = [name for name in METHODS if name in args.given]
    if not given:
        raise UserError("Say how to pick: with --ref, --LoG, --topaz_extract or --topaz_train.")
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two ways of picking; choose one.")
    return given[0]


def unused(args: Arguments, method: str) -> list[str]:
    """Given flags that mean nothing to this method."""
    return [name for methods, names in ONLY_WITH if method not in methods for name in names if name in args.given]


def ctf_flag(args: Arguments) -> str:
    """The flag that asks for the micrographs' CTFs, or ""."""
    wanted = "--ctf" if method_name(args) == "--ref" and args.text("--ref") != "gauss" else "--LoG_use_ctf"
    return wanted if args.on(wanted) else ""


def make_method(args: Arguments, micrographs: Sequence[Micrograph], job: Job, stop: threading.Event) -> Method:
    """What picks, from the options; UserError for those that cannot be. stop: set when the job shall end.

    micrographs: all of them; what depends on them is the same for all.
    """
    maps = FomMaps(args.on("--write_fom_maps"), args.on("--read_fom_maps"))
    if method_name(args) == "--LoG":
        settings = log_settings(args)
        job.say(f" Diameters (A): {', '.join(f'{diameter:g}' for diameter in diameters_of(settings))}")
        return LogMethod(settings, maps)
    if method_name(args) == "--topaz_extract":
        told = topaz_settings(args, pixel_size(micrographs), job)
        return TopazMethod(told, f"{args.text('--odir').rstrip('/')}/proc/", stop)
    make_matcher = _on_device(args, job) if args.on("--gpu") and not maps.read else Matcher
    references = _references(args, micrographs, job)
    matching, peaks = template_settings(args), peak_settings(args)
    if not args.on("--helix"):
        return TemplateMethod(references, matching, peaks, maps, stop, make_matcher)
    if references.projections is not None:
        raise UserError("--helix needs 2D references, such as class averages, not a map.")
    filaments = FilamentSettings(
        diameter=finite(args, "--helical_tube_outer_diameter"),
        particle=references.diameter,
        rise=peaks.min_distance,
        shortest=finite(args, "--helical_tube_length_min"),
        curvature=finite(args, "--helical_tube_kappa_max"),
        amyloid=args.on("--amyloid"),
        local=finite(args, "--max_diam_local_avg"),
    )
    return FilamentMethod(references, matching, peaks, maps, stop, filaments, make_matcher)


def _on_device(args: Arguments, job: Job) -> MakeMatcher:
    """References on this rank's GPU. As in RELION (autopicker_mpi.cpp, deviceInitialise) a rank uses one: the first of
    its own in a list such as 0,1:2,3, and each the next in turn without a list.

    All ranks must call this together. UserError where it cannot be used.
    """
    from relion_py.compute.backend.cuda_device import first_of_each, open_devices
    from relion_py.compute.picking.templates_cuda import CudaMatching

    (share,) = open_devices(first_of_each(args.text("--gpu")), 0, job.comm)
    for rank, name in enumerate(job.comm.allgather(share.device.name)):
        if args.integer("--verb") > 0:
            job.say(f" Rank {rank} picks on GPU {name}")
    return CudaMatching(share.device, share.budget).matcher


def log_settings(args: Arguments) -> LogSettings:
    """How to pick by a Laplacian of Gaussian."""
    for name in ("--LoG_diam_min", "--LoG_diam_max"):
        if name not in args.given:
            raise UserError(f"{name} must be given with --LoG.")
    return LogSettings(
        diameter_min=args.number("--LoG_diam_min"),
        diameter_max=args.number("--LoG_diam_max"),
        adjust_threshold=args.number("--LoG_adjust_threshold"),
        upper_threshold=args.number("--LoG_upper_threshold"),
        white=args.on("--Log_invert"),
        neighbour=args.number("--LoG_neighbour") / 100,
        max_search=int(args.number("--Log_max_search")),
        lowpass=args.number("--lowpass"),
        shrink=args.number("--shrink"),
        skip_side=args.integer("--skip_side"),
        outlier_zscore=args.number("--outlier_removal_zscore"),
        optimise_scale=not args.on("--skip_optimise_scale"),
        seed=_seed(args),
    )


def template_settings(args: Arguments) -> TemplateSettings:
    """How references are matched. A Gaussian is turned by no angle, and has no CTF."""
    gaussian = args.text("--ref") == "gauss"
    return TemplateSettings(
        psi_step=360.0 if gaussian else args.number("--ang"),
        lowpass=finite(args, "--lowpass"),
        highpass=finite(args, "--highpass"),
        ctf=bool(ctf_flag(args)),
        intact_first_peak=args.on("--ctf_intact_first_peak"),
        shrink=args.number("--shrink"),
        margin=args.integer("--extra_pad"),
        outlier_zscore=args.number("--outlier_removal_zscore"),
        optimise_scale=not args.on("--skip_optimise_scale"),
        seed=_seed(args),
    )


def peak_settings(args: Arguments) -> PeakSettings:
    """Which peaks become picks."""
    return PeakSettings(
        threshold=finite(args, "--threshold"),
        min_distance=finite(args, "--min_distance"),
        max_deviation=finite(args, "--max_stddev_noise"),
        min_mean=finite(args, "--min_avg_noise"),
        skip_side=args.integer("--skip_side"),
    )


def topaz_settings(args: Arguments, angpix: float, job: Job) -> TopazSettings:
    """What Topaz is told. angpix: of the micrographs."""
    program = find_topaz(args.text("--fn_topaz_exe"))
    training = method_name(args) == "--topaz_train"
    diameter, downscale = finite(args, "--particle_diameter"), args.integer("--topaz_downscale")
    if downscale < 1:
        downscale = downscale_for(diameter, angpix)
    radius: int | None = args.integer("--topaz_radius")
    if radius is not None and radius < 0:
        radius = radius_for(diameter, angpix, downscale, training) if diameter > 0 else None
    if radius is None and not training:
        raise UserError("--topaz_extract needs --particle_diameter, or --topaz_radius.")
    model = args.text("--topaz_model")
    if model and not os.path.exists(model):
        raise UserError(f"There is no Topaz model {model}; correct --topaz_model.")
    length = finite(args, "--helical_tube_length_min")
    settings = TopazSettings(
        program=program,
        downscale=downscale,
        radius=radius,
        device=_device(args, job.comm.rank, None if training else -1),
        threshold=finite(args, "--topaz_threshold"),
        model=model,
        extra=extra_arguments(args.text("--topaz_args")),
        filaments=args.on("--helix"),
        filament_length=max(0, round_half_up(length / (downscale * angpix))) if length > 0 else 0,
        filament_plots=args.on("--topaz_plot"),
        particles=args.integer("--topaz_nr_particles"),
        workers=args.integer("--topaz_workers"),
    )
    if args.integer("--verb") > 0:
        job.say(f" Topaz: {program[0]}; micrographs {downscale} times smaller, radius {radius or 'of its own'}")
    return settings


def train_topaz(args: Arguments, micrographs: Sequence[Micrograph], job: Job, stop: threading.Event) -> None:
    """Train a Topaz network with the picks or the particles that the options name. One rank does."""
    angpix = pixel_size(micrographs)
    settings = topaz_settings(args, angpix, job)
    directory = args.text("--odir").rstrip("/") + "/"
    picks, particles = args.text("--topaz_train_picks"), args.text("--topaz_train_parts")
    if not picks and not particles:
        raise UserError("--topaz_train needs --topaz_train_picks or --topaz_train_parts.")
    picked = read_picks(picks) if picks else read_particles(particles, directory, angpix)
    ratio = finite(args, "--topaz_test_ratio")
    with _Watch(job, stop):
        trained, tested, failures = train(
            picked, settings, ratio, _seed(args), directory, angpix, stop, job.check_abort
        )  # fmt: skip
    write_failures(directory + FAILURES, failures)
    job.say(f" Trained with {trained} picks, tested with {tested}. Models: {directory}model*")
    job.say(" Start another Auto-picking job to pick with one of them.")


class _Watch:
    """Sets an event when the job is asked to end, while its thread waits for another program."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self._job, self._stop, self._over = job, stop, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._job.check_abort()
            except Aborted:
                self._stop.set()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()


def _device(args: Arguments, rank: int, without: int | None) -> int | None:
    """The GPU of a rank by --gpu, of which Topaz uses one; `without` that flag."""
    if not args.on("--gpu"):
        return without
    text = args.text("--gpu").strip()
    if not text[:1].isdigit():
        return rank % max(1, len(glob.glob("/proc/driver/nvidia/gpus/*")))
    per_rank = text.split(":")
    word = per_rank[rank % len(per_rank)].split(",")[0].strip()
    if not word.isdigit():
        raise UserError(f"--gpu needs numbers of GPUs, as in 0:1, not {text}.")
    return int(word)


def finite(args: Arguments, name: str) -> float:
    """The number of an option; UserError unless it is a finite one."""
    number = args.number(name)
    if not math.isfinite(number):
        raise UserError(f"{name} must be a finite number, not {args.text(name)}.")
    return number


def pixel_size(micrographs: Sequence[Micrograph]) -> float:
    """A per pixel of all micrographs; UserError if they differ."""
    first = micrographs[0]
    for micrograph in micrographs:
        if abs(micrograph.angpix - first.angpix) > _SAME_PIXEL_SIZE:
            raise UserError(
                f"{first.name} has {first.angpix:g} A per pixel and {micrograph.name} {micrograph.angpix:g}; pick "
                "optics groups of different pixel sizes in different jobs."
            )
    return first.angpix


def _references(args: Arguments, micrographs: Sequence[Micrograph], job: Job) -> References:
    """The references; projections of a map are written beside the picks, as RELION does."""
    padding = args.number("--pad")
    if not 1 <= padding <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    references = load_references(
        ReferenceSettings(
            source=args.text("--ref"),
            pixel_size=finite(args, "--angpix_ref"),
            diameter=finite(args, "--particle_diameter"),
            shrink_mask=args.integer("--shrink_particle_mask"),
            invert=args.on("--invert"),
            gauss_max=finite(args, "--gauss_max"),
            healpix_order=args.integer("--healpix_order"),
            symmetry=args.text("--sym"),
            lowpass=finite(args, "--lowpass"),
            padding=padding,
        ),
        pixel_size(micrographs),
    )
    if job.leads and references.projections is not None:
        write_stack(
            args.text("--odir").rstrip("/") + "/" + PROJECTIONS, references.projections, references.pixel_size
        )  # fmt: skip
    if args.integer("--verb") > 0:
        job.say(
            f" {len(references.images)} references of {references.box} pixels; particle diameter "
            f"{references.diameter:g} A, in-plane angles every {template_settings(args).step:g} degrees"
        )
    return references


def _seed(args: Arguments) -> int:
    seed = args.integer("--random_seed")
    return time.time_ns() % 2**31 if seed == -1 else abs(seed)
