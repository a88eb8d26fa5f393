"""Problems are told all at once, each at its option, and only where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relion_py.jobs import diskchecks, registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import NamedFiles

from .conftest import OPTICS, PARTICLES, write_map

REFINE = registry.by_label("relion.refine3d")
GOOD = {"fn_img": "parts.star", "fn_ref": "ref.mrc", "particle_diameter": "80", "trust_ref_size": "No"}


@pytest.fixture(autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH on which the programs of these tests are, and nothing else."""
    directory = tmp_path_factory.mktemp("bin")
    for name in ("relion_refine", "relion_refine_mpi", "relion_run_ctffind", "mpirun", "sbatch", "ctffind"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    for name in list(os.environ):
        if name.startswith("RELION_"):
            monkeypatch.delenv(name)


def told(values: dict[str, str], root: Path | None, is_continue: bool = False) -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in REFINE.validate({**GOOD, **values}, root, is_continue):
        found[problem.key] = f"{found.get(problem.key, '')} {problem.message}".strip()
    return found


def test_a_good_job_has_no_problems(project: Path) -> None:
    assert REFINE.validate(GOOD, project) == ()
    assert REFINE.validate({**GOOD, "nr_mpi": "2", "fn_mask": "mask.mrc"}, project) == ()


def test_all_problems_at_once_each_at_its_option(project: Path) -> None:
    found = told(
        {
            "fn_img": "gone.star",
            "fn_mask": "ref.mrc",
            "particle_diameter": "-5",
            "nr_mpi": "two",
            "offset_step": "0",
            "sym_name": "Q7",
            "nr_pool": "1.5",
        },
        project,
    )
    assert set(found) == {*("fn_img", "fn_mask", "particle_diameter", "nr_mpi", "offset_step", "sym_name", "nr_pool")}
    assert "gone.star" in found["fn_img"]
    assert "Mask3D.mrc" in found["fn_mask"]
    assert found["particle_diameter"] == "'Mask diameter (A)' must be above 0, not -5."
    assert found["nr_pool"] == "'Number of pooled particles' must be a whole number, not 1.5."


def test_stricter_problems_stand_beside_the_command() -> None:
    job = REFINE.build({**GOOD, "particle_diameter": "-5"}, files=NamedFiles())
    assert job.commands and not job.refusal
    assert [p.key for p in job.problems] == ["particle_diameter"]


def test_a_refused_job_has_no_commands_but_all_problems() -> None:
    job = REFINE.build({"fn_img": "", "fn_ref": "", "nr_pool": "x"}, files=NamedFiles())
    assert job.commands == () and job.refusal
    assert {p.key for p in job.problems} == {"fn_img", "fn_ref", "nr_pool"}
    assert job.refusal == job.problems[0].message


@pytest.mark.parametrize("count", ["1", "2", "3", "4"])
def test_any_number_of_ranks_refines(project: Path, count: str) -> None:
    assert "nr_mpi" not in told({"nr_mpi": count}, project)


def test_too_many_local_ranks() -> None:
    values = {**GOOD, "nr_mpi": "33"}
    assert "RELION_ERROR_LOCAL_MPI" in REFINE.build(values, files=NamedFiles()).refusal
    assert not REFINE.build({**values, "do_queue": "Yes"}, files=NamedFiles()).refusal
    assert not REFINE.build(values, env=SiteEnvironment(local_mpi_max=64), files=NamedFiles()).refusal


def test_scheme_variables_are_left_alone(project: Path) -> None:
    assert told({"fn_img": "$$parts", "particle_diameter": "$$diameter", "fn_ref": "$$ref"}, project) == {}


def test_options_behind_a_switch_that_is_off_do_not_count(project: Path) -> None:
    assert told({"helical_tube_outer_diameter": "no", "gpu_ids": "0"}, project) == {}
    assert "helical_tube_outer_diameter" in told({"helical_tube_outer_diameter": "no", "do_helix": "Yes"}, project)


def test_continuing_needs_an_optimiser_and_not_the_particles(project: Path) -> None:
    assert "fn_cont" in told({}, project, True)
    assert "run_it012" in told({"fn_cont": "run_model.star"}, project, True)["fn_cont"]
    (project / "Refine3D/job001").mkdir(parents=True)
    name = "Refine3D/job001/run_it003_optimiser.star"
    (project / name).touch()
    assert told({"fn_cont": name, "fn_img": "gone.star"}, project, True) == {}


@pytest.mark.parametrize(
    ("size", "depth", "pixel", "part"),
    [
        (64, 64, 2.0, "pixel of 2 A"),
        (48, 48, 1.5, "box of 48"),
        (63, 63, 1.5, "odd"),
        (64, 32, 1.5, "not a cube"),
    ],
)
def test_reference_that_does_not_fit(project: Path, size: int, depth: int, pixel: float, part: str) -> None:
    write_map(project / "ref.mrc", size, pixel, depth)
    assert part in told({}, project)["fn_ref"]


def test_reference_that_is_no_map(project: Path) -> None:
    (project / "ref.mrc").write_text("a web page")
    assert "no MRC map" in told({}, project)["fn_ref"]


def test_mask_of_another_box(project: Path) -> None:
    write_map(project / "mask.mrc", 48)
    assert "48" in told({"fn_mask": "mask.mrc"}, project)["fn_mask"]


def test_particles_without_ctf(project: Path) -> None:
    (project / "parts.star").write_text(OPTICS + PARTICLES.replace("rlnDefocusU", "rlnVoltage"))
    assert "rlnDefocusU" in told({}, project)["do_ctf_correction"]
    assert "do_ctf_correction" not in told({"do_ctf_correction": "No"}, project)


def test_particles_that_are_none(project: Path) -> None:
    (project / "parts.star").write_text("data_\n\n_rlnVoltage 300\n")
    assert "rlnImageName" in told({}, project)["fn_img"]


def test_diameter_beyond_the_box(project: Path) -> None:
    assert "96 A" in told({"particle_diameter": "120"}, project)["particle_diameter"]


@pytest.mark.req("I3")
def test_memory_for_prereading_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**REFINE.defaults(), **GOOD, "do_preread_images": "Yes"}
    assert diskchecks.preread_bytes(values, project) == 2 * 64 * 64 * 4
    assert diskchecks.preread_bytes({**values, "nr_mpi": "3"}, project) == 3 * 2 * 64 * 64 * 4
    leader = {**values, "nr_mpi": "3", "do_parallel_discio": "No"}
    assert diskchecks.preread_bytes(leader, project) == 2 * 64 * 64 * 4
    assert "do_preread_images" not in told({"do_preread_images": "Yes"}, project)
    monkeypatch.setattr(diskchecks, "free_memory", lambda: 1000)
    assert "GB" in told({"do_preread_images": "Yes"}, project)["do_preread_images"]


@pytest.mark.req("I4")
def test_scratch_directory(project: Path) -> None:
    assert "no directory" in told({"scratch_dir": "nowhere"}, project)["scratch_dir"]
    (project / "scratch").mkdir()
    assert "scratch_dir" not in told({"scratch_dir": "scratch"}, project)


def test_programs_that_are_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.setattr("sys.executable", str(project / "python"))  # the package's own programs count as well
    assert "relion_refine" in told({}, project)[""]
    monkeypatch.setenv("RELION_MPIRUN", "nothing")
    (project / "relion_refine_mpi").write_text("#!/bin/sh\n")
    (project / "relion_refine_mpi").chmod(0o755)
    assert "'nothing' is not on the PATH" in told({"nr_mpi": "2"}, project)["nr_mpi"]
    assert "do_blush" not in told({}, project)
    assert "'relion_python_blush' of RELION 5 is not" in told({"do_blush": "Yes"}, project)["do_blush"]


def test_ctffind_is_missed_only_by_who_asks_for_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the built-in estimator works, so the form as it comes has nothing to mend."""
    monkeypatch.setenv("PATH", str(project))
    spec = registry.by_label("relion.ctffind")

    def complaint(values: dict[str, str]) -> str:
        return {p.key: p.message for p in spec.validate(values, project)}.get("fn_ctffind_exe", "")

    assert complaint({}) == ""
    assert "built-in estimator" in complaint({"fn_ctffind_exe": "/opt/ctffind5"})


def test_queue_needs_command_and_template(project: Path) -> None:
    found = told({"do_queue": "Yes", "qsub": "bsub"}, project)
    assert set(found) == {"qsub", "qsubscript"}
    (project / "template.sh").write_text("#!/bin/sh\n")
    assert "XXXcommandXXX" in told({"do_queue": "Yes", "qsubscript": "template.sh"}, project)["qsubscript"]
    (project / "template.sh").write_text("srun XXXcommandXXX\n")
    assert told({"do_queue": "Yes", "qsubscript": "template.sh"}, project) == {}


@pytest.mark.req("X1")
def test_external_needs_a_program_and_an_input(project: Path) -> None:
    spec = registry.by_label("relion.external")
    found = {p.key: p.message for p in spec.validate({"fn_exe": "pick.py"}, project)}
    assert set(found) == {"fn_exe", "in_mov"} and "pick.py" in found["fn_exe"]
    (project / "pick.py").write_text("#!/usr/bin/env python3\n")
    assert "chmod" in spec.validate({"fn_exe": "pick.py", "in_part": "parts.star"}, project)[0].message
    (project / "pick.py").chmod(0o755)
    assert spec.validate({"fn_exe": "pick.py", "in_part": "parts.star"}, project) == ()
    wrong = spec.validate({"fn_exe": "pick.py", "in_part": "mask.mrc"}, project)
    assert [p.key for p in wrong] == ["in_part"] and "Mask3D" in wrong[0].message


def test_import_of_nothing(project: Path) -> None:
    spec = registry.by_label("relion.import")
    found = {p.key: p.message for p in spec.validate({"fn_in_raw": "Movies/*.tif"}, project)}
    assert "No file fits" in found["fn_in_raw"]
    (project / "Movies").mkdir()
    (project / "Movies/a.tif").touch()
    assert "fn_in_raw" not in {p.key for p in spec.validate({"fn_in_raw": "Movies/*.tif"}, project)}


def test_every_default_form_is_judged_without_failing(project: Path) -> None:
    for spec in registry.all_specs():
        for is_continue in (False, True):
            for problem in spec.validate({}, project, is_continue):
                assert problem.message.endswith("."), problem
                assert problem.key in spec.options or problem.key == ""


def test_every_refusal_and_check_names_options_that_exist() -> None:
    for spec in registry.all_specs():
        for rule in (*spec.refusals, *spec.checks):
            assert rule.key in spec.options, (spec.type_label, rule)
            assert rule.bad.keys <= set(spec.options), (spec.type_label, rule)
            assert rule.message.endswith(".") and str(rule.bad)
        for option in spec.options.values():
            if option.enabled_when is not None:
                assert option.enabled_when.keys <= set(spec.options)
                assert all(spec.options[k].kind == "yes_no" for k in option.enabled_when.keys)
