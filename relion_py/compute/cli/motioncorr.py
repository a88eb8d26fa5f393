"""relion_run_motioncorr, relion_run_motioncorr_mpi: movies become micrographs.

Every rank takes every size-th movie and works on one at a time with its threads. A movie that cannot be
corrected is listed in `failed_movies.star` and the others go on. Facts: RELION 5, motioncorr_runner.cpp and
motioncorr_runner_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.many import Mapper, in_threads, one_by_one
from relion_py.compute.cli.options.motioncorr import FLAGS, ONLY_MOTIONCOR2, ONLY_OWN
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.movies import (
    Movie,
    check_gain_name,
    open_movie,
    read_defects,
    read_gain,
    read_image,
    turn_gain,
)
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.outputs import write_failures
from relion_py.compute.motion.correct import Corrected, Settings, correct_movie
from relion_py.compute.motion.listing import (
    Entry,
    MovieList,
    is_done,
    output_root,
    read_movies,
    write_micrographs,
)
from relion_py.compute.motion.model import MovieMotion, read_motion, write_motion
from relion_py.compute.motion.motioncor2 import (
    MotionCor2,
    devices,
    extra_arguments,
    find_executable,
    run_motioncor2,
)
from relion_py.compute.motion.report import write_report

FAILURES = "failed_movies.star"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_run_motioncorr", "Corrects the motion of movies.", quiet=not job.leads)
    settings = settings_of(args)
    movies = read_movies(args.text("--i"), args.number("--angpix"), args.number("--voltage"))
    directory = args.text("--o").rstrip("/") + "/"
    # the first rank looks at what is there: the files of a fast rank must not change another's list
    listed, todo = job.comm.bcast(_choose(args, movies.entries, directory, settings) if job.leads else None)
    os.makedirs(directory, exist_ok=True)
    worker = _worker(args, settings, directory, job)
    _tell(args, todo, job)
    failures = one_by_one(job, todo, lambda entry: entry.movie, worker, warning="{error} It is left out.")
    if job.leads:
        _finish(args, settings, movies, listed, directory, failures, job)


# ---------------------------------------------------------------------------------------------- options


def settings_of(args: Arguments) -> Settings:
    """The settings that the options ask for; UserError for those that cannot be, or contradict each other."""
    own, theirs = args.on("--use_own"), args.on("--use_motioncor2")
    if own == theirs:
        raise UserError("Choose either --use_own or --use_motioncor2.")
    for name in ONLY_MOTIONCOR2 if own else ONLY_OWN:
        if name in args.given and not (name == "--grouping_for_ps" and args.integer(name) <= 0):
            other = "--use_motioncor2" if own else "--use_own"
            raise UserError(f"{name} works with {other} only.")
    if args.on("--float16") and args.integer("--grouping_for_ps") <= 0:
        raise UserError("--float16 needs the power spectra for CTF estimation: give --grouping_for_ps.")
    if args.integer("--ps_size") < 2 or args.integer("--ps_size") % 2:
        raise UserError(f"--ps_size must be an even number, not {args.text('--ps_size')}.")
    args.need_positive_integers("--patch_x", "--patch_y", "--group_frames", "--eer_grouping", "--max_iter", "--j")
    if not args.number("--bin_factor") >= 1:
        raise UserError(f"--bin_factor must be at least 1, not {args.text('--bin_factor')}.")
    if not args.number("--bfactor") >= 0:
        raise UserError(f"--bfactor must not be negative, not {args.text('--bfactor')}.")
    if not 0 <= args.number("--ccf_downsample") <= 1:
        raise UserError("--ccf_downsample must lie between 0 and 1.")
    if args.on("--dose_weighting") and not args.number("--dose_per_frame") > 0:
        raise UserError("Dose weighting needs a positive --dose_per_frame.")
    if args.on("--early_binning") and args.on("--no_early_binning"):
        raise UserError("--early_binning and --no_early_binning contradict each other.")
    threads = args.integer("--j")
    io_threads = args.integer("--max_io_threads")
    return Settings(
        first_frame=max(1, args.integer("--first_frame_sum")),
        last_frame=max(0, args.integer("--last_frame_sum")),
        group=args.integer("--group_frames"),
        patch_x=args.integer("--patch_x"),
        patch_y=args.integer("--patch_y"),
        bfactor=args.number("--bfactor"),
        bin_factor=args.number("--bin_factor"),
        early_binning=not args.on("--no_early_binning"),
        max_iter=args.integer("--max_iter"),
        ccf_downsample=args.number("--ccf_downsample"),
        interpolate_shifts=args.on("--interpolate_shifts"),
        mend_pixels=not args.on("--skip_defect"),
        dose_weighting=args.on("--dose_weighting"),
        dose_per_frame=args.number("--dose_per_frame"),
        save_unweighted=args.on("--dose_weighting") and args.on("--save_noDW"),
        even_odd=args.on("--even_odd_split"),
        grouping_for_ps=max(0, args.integer("--grouping_for_ps")),
        ps_size=args.integer("--ps_size"),
        threads=threads,
        io_threads=min(threads, io_threads) if io_threads > 0 else threads,
    )


def _choose(
    args: Arguments, entries: tuple[Entry, ...], directory: str, settings: Settings
) -> tuple[list[Entry], list[Entry]]:
    """Movies for the output list, and those of them that are to be corrected now."""
    listed: list[Entry] = []
    todo: list[Entry] = []
    limit = args.integer("--do_at_most")
    for entry in entries:
        root = output_root(directory, entry.movie)
        wanted = (settings.grouping_for_ps > 0, settings.save_unweighted, settings.even_odd)
        done = args.on("--only_do_unfinished") and is_done(root, *wanted)
        if not done:
            if 0 <= limit <= len(todo):
                continue
            todo.append(entry)
        listed.append(entry)
    return listed, todo


def _tell(args: Arguments, todo: list[Entry], job: Job) -> None:
    if args.on("--use_own") and min(args.integer("--patch_x"), args.integer("--patch_y")) == 2 and job.leads:
        print("WARNING: 2 patches are too few; there will be no local alignment.", file=sys.stderr)
    how = "the own implementation" if args.on("--use_own") else "MotionCor2"
    job.say(f" Correcting beam-induced motion of {len(todo)} movies with {how}:")
    for entry in todo:
        job.say(f"  * {entry.movie}")


# ----------------------------------------------------------------------------------------------- movies

Worker = Callable[[Entry], None]


def _worker(args: Arguments, settings: Settings, directory: str, job: Job) -> Worker:
    """What corrects one movie. The gain reference is turned, once, by the first rank."""
    gain, defects = args.text("--gainref"), args.text("--defect_file")
    for path in (gain, defects):
        if path and not os.path.exists(path):
            raise UserError(f"{path}: there is no such file.")
    if defects.lower().endswith(".txt"):
        read_defects(defects, (1, 1))  # what is wrong with it is wrong with every movie
    if gain:
        check_gain_name(gain)
        gain = _turned(gain, args.integer("--gain_rot"), args.integer("--gain_flip"), directory, job)
    eer = (args.integer("--eer_grouping"), args.integer("--eer_upsampling"))
    pre_exposure = args.number("--preexposure")
    if args.on("--use_own"):
        return Own(settings, directory, gain, defects, eer, pre_exposure, args.on("--float16"), job.check_abort)
    program = MotionCor2(
        find_executable(args.text("--motioncor2_exe")),
        gain,
        defects,
        args.text("--archive"),
        extra_arguments(args.text("--other_motioncor2_args")),
        devices(args.text("--gpu"), job.comm.rank),
    )

    def correct(entry: Entry) -> None:
        root = output_root(directory, entry.movie)
        os.makedirs(os.path.dirname(root), exist_ok=True)
        with open_movie(entry.movie, *eer) as movie:
            motion = run_motioncor2(
                program, movie, root, settings, entry.pixel_size, entry.voltage,
                pre_exposure + entry.pre_exposure,
            )  # fmt: skip
        write_motion(root + ".star", motion)

    return correct


def _turned(gain: str, rotation: int, flip: int, directory: str, job: Job) -> str:
    if rotation == 0 and flip == 0:
        return gain
    if gain.lower().endswith(".gain"):
        raise UserError(f"{gain}: a .gain file belongs to the detector as it is; leave out rotation and flip.")
    turned = directory + "gain.mrc"
    if job.leads:
        write_map(turned, turn_gain(read_image(gain), rotation, flip), 1.0)
        job.say(f" The gain reference, rotated and flipped, is in {turned}")
    job.comm.barrier()
    return turned


@dataclass
class Own:
    """Corrects movies with this program's own implementation and writes what they give."""

    settings: Settings
    directory: str
    gain: str
    defects: str
    eer: tuple[int, int]
    pre_exposure: float
    float16: bool
    check_abort: Callable[[], None]
    _gain: tuple[Any, NDArray[np.float32] | None] = (None, None)
    _defects: tuple[Any, NDArray[np.bool_] | None] = (None, None)
    _run: Mapper = field(init=False)

    def __post_init__(self) -> None:
        self._run = in_threads(ThreadPoolExecutor(self.settings.threads), self.check_abort)

    def __call__(self, entry: Entry) -> None:
        root = output_root(self.directory, entry.movie)
        os.makedirs(os.path.dirname(root), exist_ok=True)
        with open_movie(entry.movie, *self.eer) as movie:
            corrected = correct_movie(
                movie, self.settings, entry.pixel_size, entry.voltage, self.pre_exposure + entry.pre_exposure,
                self._gain_for(movie), self._defects_for(movie), self._run,
            )  # fmt: skip
        self._write(root, corrected, entry)

    def _gain_for(self, movie: Movie) -> NDArray[np.float32] | None:
        key = (type(movie), movie.shape)
        if self.gain and self._gain[0] != key:
            self._gain = (key, read_gain(self.gain, movie))
        return self._gain[1]

    def _defects_for(self, movie: Movie) -> NDArray[np.bool_] | None:
        if self.defects and self._defects[0] != movie.shape:
            self._defects = (movie.shape, read_defects(self.defects, movie.shape))
        return self._defects[1]

    def _write(self, root: str, corrected: Corrected, entry: Entry) -> None:
        """The micrograph is written last, so that what it needs is there when it is."""
        pixel_size = entry.pixel_size * self.settings.bin_factor
        dtype = "float16" if self.float16 else "float32"
        if corrected.spectrum is not None:
            write_map(root + "_PS.mrc", corrected.spectrum, corrected.spectrum_pixel_size)
        for ending, image in (
            ("_noDW", corrected.unweighted),
            ("_EVN", corrected.even),
            ("_ODD", corrected.odd),
        ):
            if image is not None:
                write_map(f"{root}{ending}.mrc", image, pixel_size, dtype)
        motion = replace(corrected.motion, gain=self.gain, defects=self.defects)
        motion = replace(motion, eer_grouping=self.eer[0], eer_upsampling=self.eer[1])
        write_motion(root + ".star", motion)
        write_map(root + ".mrc", corrected.image, pixel_size, dtype)
        atomic_write(root + ".log", ("\n".join(corrected.log) + "\n").encode())


# ----------------------------------------------------------------------------------------------- the end


def _finish(
    args: Arguments,
    settings: Settings,
    movies: MovieList,
    listed: list[Entry],
    directory: str,
    failures: dict[str, str],
    job: Job,
) -> None:
    """Write the joint STAR file, the list of failures and the PDF log. UserError if nothing came out."""
    write_failures(directory + FAILURES, failures, "rlnMicrographMovieName")
    if failures:
        job.say(f" {len(failures)} movies could not be corrected; they are listed in {directory}{FAILURES}")
    done: list[tuple[Entry, str, MovieMotion]] = []
    for entry in listed:
        root = output_root(directory, entry.movie)
        if entry.movie not in failures and os.path.exists(root + ".mrc") and os.path.exists(root + ".star"):
            done.append((entry, root, read_motion(root + ".star")))
    if not done:
        reason = f" The first failed so: {next(iter(failures.values()))}" if failures else ""
        raise UserError(f"No movie could be corrected.{reason}")
    micrographs = write_micrographs(
        directory + "corrected_micrographs.star",
        movies,
        done,
        settings.bin_factor,
        args.number("--dose_motionstats_cutoff"),
        with_spectrum=settings.grouping_for_ps > 0,
        with_unweighted=settings.save_unweighted,
        with_even_odd=settings.even_odd,
    )
    job.say(f" Written {directory}corrected_micrographs.star with {len(done)} micrographs")
    motions = [motion for _, _, motion in done]
    write_report(directory + "logfile.pdf", micrographs, motions, tracks=not args.on("--skip_logfile"))
    job.say(f" Done! Written {directory}logfile.pdf")


if __name__ == "__main__":
    main()
