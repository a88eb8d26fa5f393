"""relion_motion_refine, relion_motion_refine_mpi: Bayesian polishing.

Every rank takes every size-th micrograph and works on one at a time with its threads: first all tracks are found,
then, from the correlations of all micrographs, the frames' B-factors, then the frames are summed. A micrograph
that cannot be used is listed in `failed_micrographs.star` and the others go on. With --params2 or --params3 the
motion parameters are trained instead. Facts: RELION 5, motion_refiner.cpp and motion_refiner_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.many import in_threads, one_by_one
from relion_py.compute.cli.options.motion_refine import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.outputs import write_failures
from relion_py.compute.io.particles import ParticleTable, read_particles
from relion_py.compute.motion.model import read_motion
from relion_py.compute.polish.bfactors import FrameFactors, fit_frame_factors, read_bfactors, write_bfactors
from relion_py.compute.polish.estimate import MotionEstimator, MotionSettings
from relion_py.compute.polish.frames import FrameReader
from relion_py.compute.polish.micrographs import (
    Geometry,
    Micrograph,
    by_micrograph,
    check_particles,
    geometry_of,
    same_images,
    with_movies,
)
from relion_py.compute.polish.predictions import HalfMaps, read_half_maps
from relion_py.compute.polish.recombine import Recombiner, Shiny, joined, shiny_size
from relion_py.compute.polish.report import MicrographTracks, write_report
from relion_py.compute.polish.tracks import Correlations, read_tracks, write_tracks
from relion_py.compute.polish.training import Trainer, TrainingSettings, check_alike, chosen_micrographs

FAILURES = "failed_micrographs.star"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_motion_refine", "Follows the motion of particles.", quiet=not job.leads)
    check_options(args)
    settings, training = motion_settings(args), training_settings(args)
    with ThreadPoolExecutor(args.integer("--j")) as pool:
        polisher = _Polisher(args, settings, job, pool)
        if training is not None:
            polisher.train(training)
        else:
            polisher.polish()


# ---- options ----------------------------------------------------------------------------------------------


def check_options(args: Arguments) -> None:
    """UserError for options that are refused, or contradict each other."""
    args.refuse(REFUSED)
    args.need_positive_integers("--j")
    if bool(args.text("--m1")) != bool(args.text("--m2")):
        raise UserError("Give both half maps, --m1 and --m2, or neither.")
    if args.text("--mask") and not args.text("--m1"):
        raise UserError("--mask goes with --m1 and --m2; without them the mask is that of --f.")
    if args.integer("--crop") > 0 and not args.on("--ctf_multiply"):
        raise UserError("--crop has no meaning without --ctf_multiply.")
    if args.integer("--crop") > 0 and args.integer("--crop") % 2:
        raise UserError(f"--crop must be an even number, not {args.text('--crop')}.")
    if not args.number("--cc_pad") >= 1:
        raise UserError(f"--cc_pad must be at least 1, not {args.text('--cc_pad')}.")
    if not args.number("--bfac_minfreq") > 0:
        raise UserError(f"--bfac_minfreq must be positive, not {args.text('--bfac_minfreq')}.")
    suffix = args.text("--suffix")
    if "/" in suffix or any(ord(letter) < 32 for letter in suffix):
        raise UserError(f"--suffix must be part of a file name, not {suffix!r}.")


def motion_settings(args: Arguments) -> MotionSettings:
    """How motion is estimated; UserError for a --params_file that does not hold three numbers."""
    sigmas = [args.number(name) for name in ("--s_vel", "--s_div", "--s_acc")]
    path = args.text("--params_file")
    if path:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                sigmas = [float(word) for word in file.read().split()[:3]]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError:
            sigmas = []
        if len(sigmas) != 3:
            raise UserError(f"{path} does not begin with three numbers, as training writes them.")
    if not all(np.isfinite(sigmas)) or min(sigmas[:2]) < 0:
        raise UserError("The sigmas of velocity and divergence must not be negative, and all must be numbers.")
    return MotionSettings(
        sigma_vel=sigmas[0],
        sigma_div=sigmas[1],
        sigma_acc=sigmas[2],
        absolute=args.on("--absolute_params"),
        cc_pad=args.number("--cc_pad"),
        damage=(args.number("--dmg_a"), args.number("--dmg_b"), args.number("--dmg_c")),
        iterations=args.integer("--max_iters"),
        tolerance=args.number("--eps"),
        whiten=not args.on("--no_whiten"),
        free_global=args.on("--unreg_glob"),
        start_offsets=args.on("--glob_off"),
        offsets_reach=args.integer("--glob_off_max"),
        from_correlations=args.on("--gi"),
        squared_kernel=args.on("--sq_exp_ker"),
        most_deformations=args.integer("--max_ed"),
        cut_off=args.on("--out_cut"),
    )


def training_settings(args: Arguments) -> TrainingSettings | None:
    """How parameters are trained, None if they are not; UserError for both ways at once."""
    two, three = args.on("--params2"), args.on("--params3")
    if two and three:
        raise UserError("Train either two parameters or three: --params2 or --params3.")
    if not two and not three:
        return None
    fractions = args.number("--align_frac"), args.number("--eval_frac")
    if not all(0 < fraction < 1 for fraction in fractions):
        raise UserError("--align_frac and --eval_frac must lie between 0 and 1.")
    return TrainingSettings(
        three,
        *fractions,
        min_particles=args.integer("--min_p"),
        start=(args.number("--s_vel_0"), args.number("--s_div_0"), args.number("--s_acc_0")),
        step=args.number("--in_step"),
        convergence=args.number("--conv"),
        iterations=args.integer("--par_iters"),
        reach=args.integer("--mot_range"),
        seed=args.integer("--seed"),
    )


# ---- the work ---------------------------------------------------------------------------------------------


class _Polisher:
    """One run of the program, on one rank."""

    def __init__(self, args: Arguments, settings: MotionSettings, job: Job, pool: ThreadPoolExecutor) -> None:
        self._args, self._job = args, job
        self._run = in_threads(pool, job.check_abort)
        self._talks = args.integer("--verb") > 0
        self.directory = args.text("--o").rstrip("/") + "/"
        self._say(f" + Reading {args.text('--i')} ...")
        self._particles = self._read_particles()
        # the first rank looks at what is there and all do as it says
        found = job.comm.bcast(self._look() if job.leads else None)
        self._all: list[Micrograph] = found[0]
        self._chosen: list[Micrograph] = found[1]
        self._geometry: Geometry = found[2]
        self._failures: dict[str, str] = found[3]
        os.makedirs(self.directory, exist_ok=True)
        self._say(" + Reading the half maps ...")
        self._maps = self._read_maps()
        self._reader = FrameReader(args.number("--hot"))
        self._estimator = MotionEstimator(self._maps, self._geometry, settings, self._reader, self._run)
        self._say(
            f" + Dose per frame: {self._geometry.dose:g} e/A^2; s_vel: {settings.sigma_vel:g}, "
            f"s_div: {settings.sigma_div:g}, s_acc: {settings.sigma_acc:g}"
        )

    def polish(self) -> None:
        """Find tracks and, with --combine_frames, make polished particles."""
        args = self._args
        with_fcc = self._last_for_factors()
        todo = [
            one
            for number, one in enumerate(self._chosen)
            if not (args.on("--only_do_unfinished") and one.has_tracks(number <= with_fcc))
        ]
        todo = self._job.comm.bcast(todo)
        judged = {one.name for one in self._chosen[: with_fcc + 1]}
        self._say(f" + Estimating motion in {len(todo)} micrographs of {len(self._chosen)} ...")
        self._work(todo, lambda one: self._estimate(one, one.name in judged))
        if not args.on("--combine_frames"):
            self._finish()
            return
        shiny = self._shiny()
        factors = self._job.comm.bcast(self._frame_factors() if self._job.leads else None)
        weights = factors.weights(shiny.box, shiny.pixel_size)
        recombiner = Recombiner(self._maps, self._geometry, shiny, weights, self._reader, self._run)
        todo = [one for one in self._chosen if one.has_tracks(False) and not self._is_combined(one, shiny)]
        todo = self._job.comm.bcast(todo)
        self._say(f" + Combining frames of {len(todo)} micrographs ...")
        self._work(todo, lambda one: recombiner.process(self._particles, one))
        self._finish(shiny, factors)

    def train(self, settings: TrainingSettings) -> None:
        """Find the best motion parameters and write them."""
        job, args = self._job, self._args
        group = args.integer("--par_group")
        name = "all_groups"
        micrographs = self._chosen
        if group >= 0:
            groups = self._particles.optics_groups
            index = next((i for i, one in enumerate(groups) if one.number == group), None)
            if index is None:
                raise UserError(f"There is no optics group {group} (--par_group) in {args.text('--i')}.")
            name = f"group_{groups[index].name}"
            mine = self._particles.group_index == index
            micrographs = [replace(one, rows=one.rows[mine[one.rows]]) for one in micrographs]
        trainer = Trainer(self._estimator, settings, job.comm, self._run)
        sample, count = chosen_micrographs(micrographs, settings)
        check_alike(self._particles, sample)
        low, middle, high = (self._maps.angstrom(k) for k in (trainer.align_to, trainer.judge_from, self._maps.k_out))
        self._say(f" + Frequencies for alignment: up to {low:.2f} A")
        self._say(f" + Frequencies for evaluation: {middle:.2f} to {high:.2f} A")
        self._say(f" + Preparing {len(sample)} micrographs with {count} particles ...")
        if count < settings.min_particles:
            self._warn(f"There are fewer particles than the {settings.min_particles} of --min_p.")
        self._work(sample, lambda one: trainer.add(self._particles, one))
        if self._job.comm.allreduce_sum(np.array([float(trainer.size)]))[0] == 0:
            raise UserError(f"No micrograph can be used. {next(iter(self._failures.values()), '')}".strip())
        best = trainer.train(self._say, job.check_abort)
        self._say(f"\ngood parameters: --s_vel {best[0]:g} --s_div {best[1]:g} --s_acc {best[2]:g}\n")
        if job.leads:
            write_failures(self.directory + FAILURES, self._failures)
            path = f"{self.directory}opt_params_{name}.txt"
            atomic_write(path, f"{best[0]:g} {best[1]:g} {best[2]:g}\n".encode())
            self._say(f"written to {path}")

    # ---- input ----------------------------------------------------------------------------------------------

    def _read_particles(self) -> ParticleTable:
        particles = read_particles(self._args.text("--i"))
        check_particles(particles)
        old = self._args.text("--mov_toReplace")
        if old:
            names = particles.strings("rlnMicrographName")
            new = self._args.text("--mov_replaceBy")
            particles.particles.set("rlnMicrographName", [name.replace(old, new, 1) for name in names])
        return particles

    def _look(self) -> tuple[list[Micrograph], list[Micrograph], Geometry, dict[str, str]]:
        """All micrographs, those that are worked on, the geometry, and what is wrong with others."""
        args = self._args
        failures: dict[str, str] = {}
        micrographs = by_micrograph(self._particles, args.text("--corr_mic"), self.directory)
        first, last = max(0, args.integer("--min_MG")), args.integer("--max_MG")
        if first >= len(micrographs):
            raise UserError(f"--min_MG is {first}; there are only {len(micrographs)} micrographs.")
        part = micrographs[first : last + 1 if 0 <= last < len(micrographs) else None]
        found = with_movies(part, self._warn)
        motion = read_motion(found[0][0].metadata)
        self._check_eer(motion.eer_upsampling, motion.eer_grouping)
        last_frame = args.integer("--last_frame")
        if args.on("--find_shortest"):
            shortest = min(count for _, count in found)
            last_frame = min(last_frame, shortest) if last_frame > 0 else shortest
        geometry = geometry_of(
            motion, args.integer("--first_frame"), last_frame, args.number("--mps"), args.number("--cps"),
            args.number("--fdose"),
        )  # fmt: skip
        chosen = []
        for one, count in found:
            if count <= geometry.last:
                failures[one.name] = f"Its movie has {count} frames and {geometry.last + 1} are needed."
            elif not same_images(self._particles, one.rows):
                failures[one.name] = "Its particles differ in box or pixel size."
            elif self._in_group(one):
                chosen.append(one)
        for name, sentence in failures.items():
            self._warn(f"{name} is left out: {sentence}")
        if not chosen:
            raise UserError(f"No micrograph is left; see the warnings. {next(iter(failures.values()), '')}".strip())
        return micrographs, chosen, geometry, failures

    def _in_group(self, micrograph: Micrograph) -> bool:
        wanted = self._args.integer("--only_group")
        if wanted < 0:
            return True
        numbers = [group.number for group in self._particles.optics_groups]
        return any(numbers[index] == wanted for index in self._particles.group_index[micrograph.rows])

    def _check_eer(self, upsampling: int, grouping: int) -> None:
        for name, value in (("--eer_upsampling", upsampling), ("--eer_grouping", grouping)):
            given = self._args.integer(name)
            if given > 0 and given != value:
                raise UserError(
                    f"{name} was {value} in motion correction and cannot be changed here: tracks belong to its frames."
                )

    def _read_maps(self) -> HalfMaps:
        args = self._args
        return read_half_maps(
            args.text("--f"), args.text("--m1"), args.text("--m2"), args.text("--mask"), args.number("--angpix_ref"),
            args.number("--pad"),
        )  # fmt: skip

    def _shiny(self) -> Shiny:
        args = self._args
        size = shiny_size(args.integer("--window"), args.integer("--scale"), self._maps, self._geometry.movie_pixel)
        if args.integer("--window") > 0 or args.integer("--scale") > 0:
            self._warn("The box changes, so that refined offsets may no longer hold; refine again.")
        point = tuple(args.number(f"--recenter_{axis}") for axis in "xyz")
        crop = max(0, args.integer("--crop"))
        if crop > size[0]:
            raise UserError(f"--crop must not be larger than the box of {size[0]} pixels.")
        return Shiny(
            *size,
            crop=crop,
            ctf_multiply=args.on("--ctf_multiply"),
            float16=args.on("--float16"),
            recentre=(point[0], point[1], point[2]) if args.on("--recenter") else None,
            suffix=args.text("--suffix"),
        )

    # ---- stages ---------------------------------------------------------------------------------------------

    def _work(self, todo: Sequence[Micrograph], one: Callable[[Micrograph], None]) -> None:
        """Do this rank's share; failures of all ranks are gathered on the first."""
        self._failures.update(one_by_one(self._job, todo, lambda found: found.name, one, shown=self._talks))
        self._job.comm.barrier()

    def _estimate(self, micrograph: Micrograph, with_correlations: bool) -> None:
        """Write a micrograph's correlations and then its tracks."""
        os.makedirs(os.path.dirname(micrograph.root) or ".", exist_ok=True)
        prepared = self._estimator.prepare(self._particles, micrograph)
        tracks = self._estimator.tracks(prepared)
        if with_correlations:
            self._estimator.correlations(prepared, tracks).write(micrograph.root, self._maps.pixel_size)
        write_tracks(micrograph.root + "_tracks.star", tracks * prepared.views.pixel_size)

    def _last_for_factors(self) -> int:
        """The last micrograph (index) whose correlations go into the B-factors."""
        wanted = self._args.integer("--B_parts")
        total = np.cumsum([len(one.rows) for one in self._chosen])
        beyond = np.flatnonzero(total > wanted)
        return int(beyond[0]) if wanted > 0 and len(beyond) else len(self._chosen) - 1

    def _frame_factors(self) -> FrameFactors:
        """B-factors from a file, or from the correlations of all micrographs that have them."""
        args, maps = self._args, self._maps
        if args.text("--bfactors"):
            return read_bfactors(args.text("--bfactors"), maps.box, maps.pixel_size)
        total = Correlations.zeros(len(self._geometry.frames), maps.box // 2 + 1)
        count = 0
        for one in self._all:
            if one.name not in self._failures and one.has_tracks(True):
                found = Correlations.read(one.root)
                if found.cross.shape != total.cross.shape:
                    raise UserError(
                        f"{one.root}_FCC_cc.mrc is of other frames or another box; delete such files or start anew."
                    )
                total.add(found)
                count += 1
        if not count:
            reason = next(iter(self._failures.values()), "")
            raise UserError(f"Motion could not be estimated in any micrograph. {reason}".strip())
        first = int(maps.angstrom(args.number("--bfac_minfreq")))
        highest = args.number("--bfac_maxfreq")
        last = int(maps.angstrom(highest)) if highest > 0 else maps.k_out
        self._say(f" + Fitting B-factors to {count} micrographs, between shells {first} and {last} ...")
        factors = fit_frame_factors(total.normalised(), first, last, maps.pixel_size)
        write_bfactors(self.directory + "bfactors.star", factors)
        return factors

    def _is_combined(self, one: Micrograph, shiny: Shiny) -> bool:
        stem = f"{one.root}_shiny{shiny.suffix}"
        done = os.path.exists(stem + ".mrcs") and os.path.exists(stem + ".star")
        return self._args.on("--only_do_unfinished") and done

    # ---- the end --------------------------------------------------------------------------------------------

    def _finish(self, shiny: Shiny | None = None, factors: FrameFactors | None = None) -> None:
        """Join what all ranks, and earlier runs, have made."""
        if not self._job.leads:
            return
        write_failures(self.directory + FAILURES, self._failures)
        if self._failures:
            self._say(f" + {len(self._failures)} micrographs are left out; see {self.directory}{FAILURES}")
        if shiny is None or factors is None:
            if not any(one.has_tracks(False) for one in self._chosen):
                raise UserError(f"No motion was found. {next(iter(self._failures.values()), '')}".strip())
            return
        stem = f"_shiny{shiny.suffix}.star"
        done = [one for one in self._all if os.path.exists(one.root + stem) and one.name not in self._failures]
        file, sentences = joined(self._particles, done, shiny)
        for sentence in sentences:
            self._warn(sentence)
        star.write(f"{self.directory}shiny{shiny.suffix}.star", file)
        drawn = [self._drawn(one) for one in done if one.has_tracks(False)]
        write_report(self.directory + "logfile.pdf", factors, self._geometry.first + 1, drawn)
        self._say(f" + The pixel size of polished particles is {shiny.pixel_size:g} A, their box {shiny.final_box}")
        self._say(f" + Written logfile in {self.directory}logfile.pdf")
        self._say(f" + Done! Written new particle STAR file in {self.directory}shiny{shiny.suffix}.star")

    def _drawn(self, one: Micrograph) -> MicrographTracks:
        motion = read_motion(one.metadata)
        scale = self._geometry.movie_pixel / self._geometry.coordinate_pixel
        places = [self._particles.floats(f"rlnCoordinate{axis}")[one.rows] for axis in "XY"]
        tracks = read_tracks(one.root + "_tracks.star") / self._geometry.coordinate_pixel
        size = (motion.size_x * scale, motion.size_y * scale)
        return MicrographTracks(one.name, size, np.stack(places, axis=1), tracks)

    def _say(self, text: str) -> None:
        if self._talks:
            self._job.say(text)

    def _warn(self, sentence: str) -> None:
        if self._job.leads:
            print(f"WARNING: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
