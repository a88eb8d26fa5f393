"""relion_class_ranker: scores of 2D class averages, and the selection of the good ones.

Facts: RELION 5, class_ranker.cpp. The score is our own: `ranking/score.py`.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.options.class_ranker import DESCRIPTION, FLAGS, REFUSED, REFUSED_VALUES
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map
from relion_py.compute.ranking import rank
from relion_py.compute.ranking.features import UNIFORM_ANGPIX, FeatureOptions
from relion_py.compute.ranking.rank import ClassFeatures
from relion_py.compute.ranking.score import score


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_class_ranker", DESCRIPTION)
    choice = _choice(args)
    directory = args.text("--o")
    job.say(" Initialising... ")
    found = rank.read_classification(args.text("--opt"))
    options = FeatureOptions(
        found.diameter,
        args.number("--radius_ratio"),
        args.number("--radius"),
        args.number("--lowpass"),
        args.number("--binary_threshold"),
        args.on("--do_granularity_features"),
    )
    os.makedirs(directory, exist_ok=True)
    job.say(" Calculating features for each class ...")
    features = _features(job, found, options, args.integer("--verb") > 0)
    if args.on("--save_masks"):
        _save_masks(features, os.path.join(directory, args.text("--mask_folder_name")))

    evidence = rank.evidence_table(found, features)
    ranked = score(evidence)
    scores = np.full(found.model.nr_classes, rank.NO_SCORE)
    scores[found.ranked] = ranked
    sizes = np.array([f.size for f in features])
    chosen = rank.choose(ranked, sizes, choice) if args.on("--auto_select") else []
    table = rank.feature_table(features, evidence, ranked, found)
    star.write(os.path.join(directory, args.text("--fn_features")), star.StarFile([("class_features", table)]))
    numbers = [features[i].k for i in chosen]
    written = rank.write_ranking(found, scores, numbers, directory, args.text("--fn_root"))
    job.say(f" Written model with all predicted scores to: {written}")
    if args.on("--auto_select"):
        particles = os.path.join(directory, args.text("--fn_sel_parts"))
        averages = os.path.join(directory, args.text("--fn_sel_classavgs"))
        picked = [features[i] for i in chosen]
        nr_particles, nr_classes = rank.write_selection(found, picked, ranked[chosen], particles, averages)
        job.say(f" Written {nr_particles} selected particles to: {particles}")
        job.say(f" Written {nr_classes} selected classes to: {averages}")
    job.say("Done!")


def _choice(args: Arguments) -> rank.Choice:
    """The options of the selection; UserError for what is refused or cannot be."""
    args.refuse(REFUSED | REFUSED_VALUES)
    if not 0 < args.number("--radius_ratio") < 1:
        raise UserError(f"--radius_ratio must lie between 0 and 1, not be {args.text('--radius_ratio')}.")
    if not args.number("--lowpass") > 0:
        raise UserError(f"--lowpass must be more than 0 A, not {args.text('--lowpass')}.")
    if not args.number("--min_score") <= args.number("--max_score"):
        raise UserError("--min_score must not be above --max_score.")
    return rank.Choice(
        args.number("--min_score"),
        args.number("--max_score"),
        args.on("--relative_thresholds"),
        args.number("--select_min_nr_particles"),
        args.integer("--select_min_nr_classes"),
    )


def _features(job: Job, found: rank.Classification, options: FeatureOptions, bar: bool) -> list[ClassFeatures]:
    count = len(found.ranked)
    if not count:
        raise UserError(
            f"No class of {found.optimiser.path} has more than {rank.FEWEST} particles: there is nothing to score."
        )
    if not bar:
        return rank.features_of(found, options, lambda done: job.check_abort())
    with job.progress(count) as progress:

        def step(done: int) -> None:
            job.check_abort()
            progress.update(done)

        return rank.features_of(found, options, step)


def _save_masks(features: list[ClassFeatures], directory: str) -> None:
    """Each average at 4 A per pixel, what was smoothed, and its areas of protein and solvent."""
    os.makedirs(directory, exist_ok=True)
    for f in features:
        pictures = {
            "original": f.image.image,
            "lowpassfiltered": f.image.smooth,
            "p_mask": f.image.protein,
            "s_mask": f.image.solvent,
        }
        for name, picture in pictures.items():
            path = os.path.join(directory, f"class{f.k + 1}_{name}.mrc")
            write_map(path, picture.astype(np.float32), UNIFORM_ANGPIX)


if __name__ == "__main__":
    main()
