"""relion_postprocess, relion_postprocess_mpi: resolution and sharpening of a refinement, global or local.

Facts: RELION 5, postprocessing.cpp and apps/postprocess.cpp, apps/postprocess_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.postprocess import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.image.fsc import fsc
from relion_py.compute.image.masks import check_solvent_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.post.amplitudes import even_amplitudes
from relion_py.compute.post.local_resolution import (
    LocalSettings,
    LocalSums,
    fsc_tables,
    local_sums,
    sampling_points,
    write_histogram,
)
from relion_py.compute.post.postprocess import Correlations, Settings, correlate, from_one, sharpen
from relion_py.compute.post.postprocess_output import Names, write_outputs
from relion_py.compute.post.sharpening import read_mtf

Map = NDArray[np.float32]


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


@dataclass(frozen=True)
class Inputs:
    """What was read: the half maps, the mask if there is one, their names."""

    half1: Map
    half2: Map
    mask: Map | None
    names: Names


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_postprocess", "Resolution and sharpening.", quiet=not job.leads)
    args.refuse(REFUSED)
    loud = args.integer("--verb") > 0

    def say(text: str) -> None:
        if loud:
            job.say(text)

    names = _names(args)
    say("== Reading input half-reconstructions: ")
    say(f"{'  + half1-map: ':<35}{names.half1}")
    say(f"{'  + half2-map: ':<35}{names.half2}")
    inputs, angpix = _read(names, args, job)
    settings = settings_of(args, angpix)
    os.makedirs(os.path.dirname(names.root) or ".", exist_ok=True)
    if args.on("--locres"):
        _local_resolution(inputs, settings, local_settings_of(args), job, say)
    elif job.leads:
        _postprocess(inputs, settings, args, job, say)


def _names(args: Arguments) -> Names:
    half1, half2 = args.text("--i"), args.text("--i2")
    if not half2:
        directory, name = os.path.split(half1)
        for ours, theirs in (("half1", "half2"), ("half2", "half1")):
            if ours in name:
                half2 = os.path.join(directory, name.replace(ours, theirs))
                break
        else:
            raise UserError(f"{half1} has neither half1 nor half2 in its name; give the other half with --i2.")
    return Names(half1, half2, args.text("--mask"), args.text("--o"), args.command_line)


def _read(names: Names, args: Arguments, job: Job) -> tuple[Inputs, float]:
    """Read and check the maps; the pixel size is that of --angpix or of the header."""
    maps = []
    for name in (names.half1, names.half2):
        volume, header_angpix = read_map(name)
        if len(set(volume.shape)) != 1:
            size = " x ".join(map(str, volume.shape[::-1]))
            raise UserError(f"{name} has {size} voxels; only cubic maps can be post-processed.")
        if not np.isfinite(volume).all():
            raise UserError(f"{name} contains values that are not numbers; make the map again.")
        maps.append(volume)
        angpix = args.number("--angpix") if args.number("--angpix") > 0 else header_angpix
    if maps[0].shape != maps[1].shape:
        raise UserError(f"{names.half1} and {names.half2} differ in size; give two halves of one refinement.")
    if not angpix > 0:
        raise UserError(f"{names.half1} does not tell its pixel size; give it with --angpix.")
    if not args.number("--angpix") > 0:
        _warn(job, f"--angpix was not given; the pixel size in the map's header, {angpix:g} A, is used.")
    mask = None
    if names.mask:
        mask = np.asarray(read_map(names.mask)[0])
        if mask.shape == maps[0].shape and np.isfinite(mask).all() and mask.min() >= -1e-6 and mask.max() <= 1.000001:
            mask = np.clip(mask, 0.0, 1.0)  # what a single-precision header or filter may have left over
        check_solvent_mask(mask, maps[0].shape, names.mask)
    return Inputs(maps[0], maps[1], mask, names), angpix


def settings_of(args: Arguments, angpix: float) -> Settings:
    """The settings that the options ask for; UserError for those that cannot be, or contradict each other."""
    if args.on("--auto_bfac") and args.number("--adhoc_bfac") != 0:
        raise UserError("Give either --auto_bfac or --adhoc_bfac, not both.")
    if args.on("--locres") and args.on("--auto_bfac"):
        raise UserError("--locres needs a B-factor by --adhoc_bfac; it cannot find one by --auto_bfac.")
    if args.on("--locres") and args.on("--ampl_corr"):
        raise UserError("--ampl_corr is for whole maps; leave it out with --locres.")
    if args.integer("--filter_edge_width") < 0:
        raise UserError(f"--filter_edge_width must not be negative, not {args.text('--filter_edge_width')}.")
    mtf_angpix = args.number("--mtf_angpix")
    mtf_angpix = mtf_angpix if mtf_angpix > 0 else angpix
    return Settings(
        angpix=angpix,
        mtf=read_mtf(args.text("--mtf"), mtf_angpix) if args.text("--mtf") else None,
        auto_bfactor=args.on("--auto_bfac"),
        adhoc_bfactor=args.number("--adhoc_bfac"),
        fit_from=args.number("--autob_lowres"),
        fit_to=args.number("--autob_highres"),
        fsc_weighting=not args.on("--skip_fsc_weighting"),
        low_pass=args.number("--low_pass"),
        filter_edge=args.integer("--filter_edge_width"),
        randomise_at_fsc=args.number("--randomize_at_fsc"),
        randomise_at=max(0.0, args.number("--randomize_at_A")),
        force_mask=args.on("--force_mask"),
        molecular_weight=max(0.0, args.number("--molweight")),
        seed=args.integer("--random_seed"),
    )


def local_settings_of(args: Arguments) -> LocalSettings:
    """The settings of a local-resolution estimate; UserError for impossible ones."""
    sampling, radius = args.number("--locres_sampling"), args.number("--locres_maskrad")
    edge, randomise_at = args.number("--locres_edgwidth"), args.number("--locres_randomize_at")
    for name in ("--locres_sampling", "--locres_randomize_at", "--locres_minres"):
        if not args.number(name) > 0:
            raise UserError(f"{name} must be positive, not {args.text(name)}.")
    return LocalSettings(
        sampling,
        radius if radius >= 0 else 0.5 * sampling,
        edge if edge >= 0 else sampling,
        randomise_at,
        args.number("--locres_minres"),
    )


def _postprocess(inputs: Inputs, settings: Settings, args: Arguments, job: Job, say: Callable[[str], None]) -> None:
    names, box = inputs.names, len(inputs.half1)
    if settings.molecular_weight > 0:
        say(f"{'  + ordered molecular weight (kDa): ':<35}{settings.molecular_weight:g}")
    if inputs.mask is None:
        say("== Not performing any masking ... ")
    else:
        inside = float((inputs.mask > 0.5).mean())
        say("== Using a user-provided mask ... ")
        say(f"{'  + input mask: ':<35}{names.mask}")
        say(f"{'  + fraction f (solvent mask based): ':<35}{0.476 / max(inside, 1e-12):g}")
        weight = inside * (box * settings.angpix) ** 3 * 0.81
        say(f"{'  + molecular weight inside protein mask: ':<35}{weight:g}")
        say("== Masking input maps ...")
    evened = None
    if args.on("--ampl_corr"):
        say("== Evening amplitudes over directions ...")
        angpix, coarsest = settings.angpix, settings.fit_from
        evened = (even_amplitudes(inputs.half1, angpix, coarsest), even_amplitudes(inputs.half2, angpix, coarsest))
    curves = correlate(inputs.half1, inputs.half2, inputs.mask, settings, say, evened)
    for warning in curves.warnings:
        _warn(job, warning)
    if settings.mtf is not None:
        say(f"{'  + mtf STAR-file: ':<35}{args.text('--mtf')}")
    job.check_abort()
    halves = evened if evened is not None and inputs.mask is None else (inputs.half1, inputs.half2)
    mean = 0.5 * (halves[0] + halves[1])
    sharpened = sharpen(mean, curves.true, curves.resolution, settings, say)
    if sharpened.bfactor > 0:
        _warn(job, "the B-factor is positive, which dampens the map; a negative one sharpens it.")
    if not sharpened.bfactor:
        _warn(job, "the map is not sharpened; high-resolution features show better with a B-factor.")
    job.check_abort()
    say("== Writing output files ...")
    _write_maps(names.root, sharpened.map, inputs.mask, settings, say)
    say(f"{'  + Metadata file: ':<35}{names.root}.star")
    write_outputs(names, curves, sharpened, settings)
    fine = f" ({curves.fractional_resolution:g})" if args.on("--interpolate") else ""
    say(f"{'  + FINAL RESOLUTION: ':<35}{curves.resolution:g}{fine}")
    if args.on("--half_maps"):
        _write_halves(inputs, curves, sharpened.bfactor, sharpened.low_pass, settings, say)


def _write_maps(root: str, volume: Map, mask: Map | None, settings: Settings, say: Callable[[str], None]) -> None:
    write_map(f"{root}.mrc", volume, settings.angpix)
    say(f"{'  + Processed map: ':<35}{root}.mrc")
    if mask is not None:
        write_map(f"{root}_masked.mrc", volume * mask, settings.angpix)
        say(f"{'  + Processed masked map: ':<35}{root}_masked.mrc")


def _write_halves(
    inputs: Inputs,
    curves: Correlations,
    bfactor: float,
    low_pass: float,
    settings: Settings,
    say: Callable[[str], None],
) -> None:
    """Both halves with the same weights, B-factor and filter as the mean."""
    say("== Writing half maps after applying same sharpening and low-pass filter")
    same = replace(settings, auto_bfactor=False, adhoc_bfactor=bfactor, low_pass=low_pass)
    for number, half in enumerate((inputs.half1, inputs.half2), 1):
        sharpened = sharpen(half, curves.true, curves.resolution, same, lambda text: None)
        _write_maps(f"{inputs.names.root}_half{number}", sharpened.map, inputs.mask, settings, say)


def _local_resolution(
    inputs: Inputs, settings: Settings, local: LocalSettings, job: Job, say: Callable[[str], None]
) -> None:
    """Every rank takes every size-th point; the first one writes."""
    if settings.seed < 0:  # another seed each time, but the same random phases on all ranks
        settings = replace(settings, seed=job.comm.bcast(int(np.random.default_rng().integers(1 << 31))))
    root, box = inputs.names.root, len(inputs.half1)
    points = sampling_points(box, settings.angpix, local)
    mine = points[job.comm.rank :: job.comm.size]
    say(f" Calculating local resolution in {len(points)} sampling points ...")
    with job.progress(len(mine)) as bar:

        def tick(done: int) -> None:
            job.check_abort()
            bar.update(done)

        sums = local_sums(inputs.half1, inputs.half2, mine, settings, local, tick)
    sums = _summed(sums, job)
    if not job.leads:
        return
    resolution, filtered = sums.maps()
    write_map(f"{root}_locres.mrc", resolution, settings.angpix)
    write_map(f"{root}_locres_filtered.mrc", filtered, settings.angpix)
    unmasked = from_one(fsc(inputs.half1, inputs.half2))
    star.write(f"{root}_locres_fscs.star", fsc_tables(sums.curves, unmasked, box, settings.angpix))
    say(f"{'  + Metadata output file: ':<35}{root}_locres_fscs.star")
    if inputs.mask is not None:
        path = os.path.join(os.path.dirname(root), "histogram.pdf")
        write_histogram(path, resolution, inputs.mask)
        say(f"Written the histogram to {path}")
    say(" done! ")


def _summed(sums: LocalSums, job: Job) -> LocalSums:
    maps = [job.comm.reduce_sum(part) for part in (sums.weight, sums.frequency, sums.filtered)]
    curves = {point: found for part in job.comm.gather(sums.curves) or [] for point, found in part.items()}
    return LocalSums(maps[0], maps[1], maps[2], curves)


def _warn(job: Job, sentence: str) -> None:
    if job.leads:
        print(f" WARNING: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
