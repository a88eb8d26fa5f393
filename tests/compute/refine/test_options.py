"""The options of relion_refine: the table against the reference's, refusals, ranges, continuation."""

from __future__ import annotations

import ast
import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from reference_data import SHARED
from small_project import ARGS

import relion_py
from relion_py.compute.cli.options.refine import FLAGS, NOT_IN_THIS_RELEASE, refuse_unsupported
from relion_py.compute.cli.parser import parse
from relion_py.compute.errors import UserError
from relion_py.compute.refine.options import HONOURED_FLAGS, RefineOptions

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data are absent")

_HIDDEN = {
    "--continue",
    "--force_converge",
    "--minimum_angular_sampling",
    "--maximum_angular_sampling",
    "--min_sigma2_offset",
    "--multibody_masks",
    "--reconstruct_subtracted_bodies",
    "--multibody_norm_overlap",
}


def reference_table() -> dict[str, dict[str, str]]:
    programs = json.loads((SHARED / "reference/programs.json").read_text())
    groups = programs["relion_refine"]["groups"]
    return {row["option"]: row for rows in groups.values() for row in rows}


@needs_shared
def test_table_has_every_option_of_the_reference_with_its_default() -> None:
    wanted, ours = reference_table(), {flag.name: flag for flag in FLAGS}
    assert set(ours) - set(wanted) == _HIDDEN
    assert set(wanted) <= set(ours)
    for name, row in wanted.items():
        if name == "--gpu":  # listed as a switch there, and read with a value
            continue
        assert (ours[name].kind, ours[name].default) == (row["kind"], row["default"]), name


def test_every_flag_is_honoured_or_refused_and_none_is_both() -> None:
    names = {flag.name for flag in FLAGS} | {"--pipeline_control"}
    assert HONOURED_FLAGS | set(NOT_IN_THIS_RELEASE) == names
    assert not HONOURED_FLAGS & set(NOT_IN_THIS_RELEASE)
    assert len(names) == len(FLAGS) + 1


def test_no_option_is_taken_and_then_ignored() -> None:
    """Every field is read by the engine, directly or through a property of the options that it reads."""
    names: set[str] = set()
    for path in (Path(relion_py.__file__).parent / "compute").rglob("*.py"):
        if path.name not in ("options.py", "model_star.py"):
            tree = ast.walk(ast.parse(path.read_text()))
            names |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
    for name, member in vars(RefineOptions).items():
        code = getattr(member.fget if isinstance(member, property) else member, "__code__", None)
        if name in names and code is not None:
            names |= set(code.co_names)
    said_otherwise = {
        "auto_refine",  # a run without it is refused
        "split_random_halves",  # likewise
        "cpu",  # there is nothing else to compute on
        "pipeline_control",  # read by cli/program.py before anything is parsed
        "continue_from",  # read by cli/refine.py from the words
        "print_symmetry_ops",  # likewise
        "command_line",  # for the head of _optimiser.star
    }
    assert {f.name for f in dataclasses.fields(RefineOptions)} - names <= said_otherwise


def test_defaults_of_the_dataclass_are_those_of_the_table() -> None:
    defaults = {flag.name: flag.default == "true" if flag.kind == "flag" else flag.default for flag in FLAGS}
    read = RefineOptions.from_args({**defaults, **ARGS})
    assert read == RefineOptions.from_args(ARGS)


@needs_shared
@pytest.mark.req("E1")
def test_every_auto_refine_command_of_the_reference_is_taken_or_refused_by_name() -> None:
    taken = refused = 0
    for line in (SHARED / "golden/commands.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["type"] != 10 or not case["ok"] or "relion_refine" not in case["commands"][0]:
            continue
        words = shlex.split(case["commands"][0].replace("`which relion_refine_mpi`", "x").replace("`", "'"))
        arguments = parse(FLAGS, words[1:] if "mpirun" not in words else words[words.index("x") + 1 :])
        assert not [text for text in arguments.warnings if text.startswith('"--')], arguments.warnings
        refuse_unsupported(arguments.values, arguments.given)
        if arguments.text("--relax_sym").startswith("D"):  # which RELION 5 refuses as well, when it runs
            with pytest.raises(UserError, match="--relax_sym takes a cyclic group"):
                RefineOptions.from_args(arguments.values, arguments.command_line, arguments.given)
            refused += 1
            continue
        if "--helix" in arguments.given and arguments.number("--helical_outer_diameter") <= 0:
            with pytest.raises(UserError, match="--helix needs the tube's diameter"):
                RefineOptions.from_args(arguments.values, arguments.command_line, arguments.given)
        elif "--continue" not in arguments.given:
            options = RefineOptions.from_args(arguments.values, arguments.command_line)
            assert options.output_root == arguments.text("--o")
            assert options.threads == int(arguments.text("--j"))
            assert options.offset_step == pytest.approx(float(arguments.text("--offset_step")))
        taken += 1
    assert taken >= 10
    assert refused >= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--i": ""}, "--i"),
        ({"--o": ""}, "--o"),
        ({"--ref": "None"}, "--ref"),
        ({"--auto_refine": False}, "--auto_refine"),
        ({"--split_random_halves": False}, "--split_random_halves"),
        ({"--ini_high": "sixty"}, "--ini_high must be a number, not 'sixty'"),
        ({"--j": "0"}, "--j must be at least 1"),
        ({"--j": "2.5"}, "--j must be a whole number"),
        ({"--pad": "3"}, "--pad must be at most 2"),
        ({"--offset_step": "0"}, "--offset_step must be greater than 0"),
        ({"--adaptive_fraction": "1.5"}, "--adaptive_fraction must be at most 1"),
        ({"--particle_diameter": "nan"}, "--particle_diameter must be a number"),
        ({"--solvent_correct_fsc": True}, "--solvent_correct_fsc needs a mask"),
        ({"--solvent_mask": "m.mrc"}, "--solvent_mask has no effect without --flatten_solvent"),
        ({"--ctf": False, "--ctf_intact_first_peak": True}, "--ctf_intact_first_peak"),
        ({"--preread_images": True, "--scratch_dir": "/tmp"}, "exclude each other"),
        ({"--keep_scratch": True}, "--keep_scratch needs a directory"),
        ({"--gpu": "0", "--cpu": True}, "--cpu and --gpu exclude each other"),
        ({"--free_gpu_memory": "500"}, "--free_gpu_memory has no effect without --gpu"),
        ({"--sym": "C1,D2"}, "--sym takes one point group"),
        ({"--force_converge": True}, "--force_converge goes with --continue"),
        ({"--helix": True}, "--helical_outer_diameter"),
        ({"--helical_nr_asu": "3"}, "--helical_nr_asu has no effect without --helix"),
        ({"--helical_outer_diameter": "80"}, "--helical_outer_diameter has no effect without --helix"),
        ({"--helix": True, "--helical_outer_diameter": "80", "--sym": "T"}, "point group Cn or Dn, not T"),
        ({"--bimodal_psi": True}, "--bimodal_psi has no effect without --sigma_psi"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_option(change: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        RefineOptions.from_args({**ARGS, **change})
    sentence = str(error.value)
    assert words in sentence
    assert sentence.endswith(".") and sentence.count(". ") == 0 and "\n" not in sentence


def test_tubes_have_wider_mask_edges_and_helices_a_diameter_of_their_own() -> None:
    helix = {**ARGS, "--helix": True, "--helical_outer_diameter": "80", "--maskedge": "5", "--particle_diameter": "-1"}
    assert RefineOptions.from_args(helix, given={"--helix"}).mask_edge == 10
    assert RefineOptions.from_args(helix).mask_edge == 5
    assert RefineOptions.from_args(helix).mask_diameter(200, 2.0) == 360
    assert RefineOptions.from_args(helix).mask_diameter(60, 2.0) == pytest.approx(90)


def test_limits_of_twist_and_rise_are_sorted_and_count_in_a_search_only() -> None:
    words = {"--helical_twist_min": "-20", "--helical_twist_max": "-30", "--helical_rise_min": "4"}
    more = {"--helical_rise_max": "5", "--helical_twist_initial": "-25", "--helical_rise_initial": "4.5"}
    helix = {**ARGS, "--helix": True, "--helical_outer_diameter": "80", **words, **more}
    twists, rises = RefineOptions.from_args({**helix, "--helical_symmetry_search": True}).helical_ranges
    assert (twists.low, twists.high, rises.low, rises.high) == (-30, -20, 4, 5)
    twists, rises = RefineOptions.from_args(helix).helical_ranges
    assert (twists.low, twists.high, rises.low, rises.high) == (-25, -25, 4.5, 4.5)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        RefineOptions.from_args({**ARGS, "--j": "x", "--pad": "9"})
    assert "--j" in str(error.value) and "--pad" in str(error.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"--helical_exclude_resols": "50,5"}, "--helical_exclude_resols"),
        ({"--grad": True, "--som": True}, "--som"),
        ({"--failsafe_threshold": "20"}, "--failsafe_threshold"),
    ],
)
def test_what_this_release_lacks_is_refused(given: dict, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} is not in this release: .*\\.$"):
        refuse_unsupported(given, set(given))


def test_a_refused_option_at_its_default_is_no_mistake() -> None:
    refuse_unsupported({"--K": "1", "--psi_step": "-1.0", "--helix": False, "--mu": "0.90"}, {"--K"})


def test_what_follows_from_the_options() -> None:
    options = RefineOptions.from_args({**ARGS, "--norm": True, "--no_norm": True, "--sigma_ang": "2"})
    assert not options.do_norm_correction
    assert options.prior_sigmas == (2, 2, 2)
    assert options.max_iterations == 999 and options.tau2_fudge_factor == 1
    only_tilt = RefineOptions.from_args({**ARGS, "--sigma_tilt": "3"})
    assert only_tilt.prior_sigmas == (0, 3, 0)
    unset = RefineOptions.from_args({**ARGS, "--particle_diameter": "-1"})
    assert unset.mask_diameter(100, 2.0) == 190


OLD = RefineOptions.from_args({**ARGS, "--norm": True, "--scale": True, "--random_seed": "7"})


def test_a_continued_run_goes_to_a_name_of_its_own() -> None:
    again = RefineOptions.continued(OLD, 12, {"--j": "4", "--continue": "x_optimiser.star"}, {"--j"})
    assert again.output_root == "Refine3D/job004/run_ct12"
    assert (again.threads, again.particle_diameter, again.random_seed) == (4, 60, 7)
    assert again.do_norm_correction and again.do_scale_correction
    named = RefineOptions.continued(OLD, 12, {"--o": "Refine3D/job009/run"}, {"--o"})
    assert named.output_root == "Refine3D/job009/run"


def test_the_command_of_a_continued_job_is_taken() -> None:
    """What the window makes of a continued job (pipeline_jobs.cpp, getCommandsAutorefineJob)."""
    old = RefineOptions.from_args({**ARGS, "--flatten_solvent": True, "--norm": True, "--scale": True})
    command = (
        "--continue Refine3D/job004/run_it005_optimiser.star --o Refine3D/job004/run --no_parallel_disc_io "
        "--preread_images --pool 30 --pad 1 --auto_ignore_angles --auto_resol_angles --particle_diameter 70 "
        "--solvent_mask mask.mrc --solvent_correct_fsc --j 3 --pipeline_control Refine3D/job004/"
    )
    arguments = parse(FLAGS, command.split())
    refuse_unsupported(arguments.values, arguments.given)
    again = RefineOptions.continued(old, 5, arguments.values, arguments.given, arguments.command_line)
    assert again.output_root == "Refine3D/job004/run_ct5" and again.command_line == command
    assert (again.pool, again.threads, again.padding_factor, again.particle_diameter) == (30, 3, 1, 70)
    assert again.preread_images and again.no_parallel_disc_io and again.combine_weights_via_disc
    assert again.auto_ignore_angles and again.auto_resol_angles and again.solvent_correct_fsc
    assert again.flatten_solvent and again.do_norm_correction and again.do_scale_correction
    assert (again.symmetry, again.ctf, again.particles) == (old.symmetry, True, old.particles)


def test_what_may_change_on_continuation_changes_and_the_rest_is_refused() -> None:
    again = RefineOptions.continued(
        OLD, 3, {"--particle_diameter": "50", "--no_norm": True}, {"--particle_diameter", "--no_norm"}
    )
    assert again.particle_diameter == 50 and not again.do_norm_correction
    same = RefineOptions.continued(OLD, 3, {"--sym": "c1"}, {"--sym"})
    assert same.symmetry == "C1"
    with pytest.raises(UserError, match="--sym cannot change when a run is continued"):
        RefineOptions.continued(OLD, 3, {"--sym": "D2"}, {"--sym"})


@hypothesis_given(st.dictionaries(st.sampled_from([f.name for f in FLAGS if f.kind == "value"]), st.text()))
def test_no_text_of_an_option_makes_anything_but_options_or_a_sentence(values: dict[str, str]) -> None:
    try:
        RefineOptions.from_args({**ARGS, **values})
    except UserError as error:
        assert str(error)
