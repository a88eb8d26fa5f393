"""Commands against RELION's own (golden cases), and against the flags that its programs know."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from reference_data import SHARED

from relion_py.jobs import quoting, registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles, NamedFiles

GOLDEN = Path(__file__).parents[1] / "golden"
PROGRAMS = SHARED / "reference" / "programs.json"


def load_checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_commands", GOLDEN / "check_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checker = load_checker()


@pytest.mark.req("G7")
@pytest.mark.parametrize("name", ["commands.jsonl.gz", "commands_random.jsonl.gz"])
def test_golden_cases_agree(name: str) -> None:
    count, wrong = checker.compare(checker.read_cases(GOLDEN / name))
    assert count == {"commands.jsonl.gz": 1320, "commands_random.jsonl.gz": 1500}[name]
    assert not wrong, wrong[0]


def test_checker_sees_differences(tmp_path: Path) -> None:
    case = next(c for c in checker.read_cases(GOLDEN / "commands.jsonl.gz") if c["ok"])
    changed = dict(case, commands=[case["commands"][0].replace("--angpix 1.4", "--angpix 1.5")])
    swapped = dict(case, output_nodes=[["Import/job007/other.star", case["output_nodes"][0][1]]])
    refused = dict(case, ok=False, error="no")
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(c) + "\n" for c in (case, changed, swapped, refused)))
    run = subprocess.run([sys.executable, str(GOLDEN / "check_commands.py"), str(path)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.splitlines()[0] == "1 of 4 cases agree"
    assert "--angpix" in run.stdout and "other.star" in run.stdout and "refused by the reference" in run.stdout


@pytest.mark.skipif(not PROGRAMS.exists(), reason="the reference's option tables are not here")
def test_every_emitted_flag_exists_in_its_program() -> None:
    programs = json.loads(PROGRAMS.read_text())
    unknown, seen = set(), set()
    for name in ("commands.jsonl.gz", "commands_random.jsonl.gz"):
        for case in checker.read_cases(GOLDEN / name):
            values = dict(case["options"], other_args="")
            spec = registry.by_number(case["type"])
            job = spec.build(values, case["output_name"], case["is_continue"], files=NamedFiles())
            for command in job.commands:
                program = command[0].removesuffix("_mpi")
                if program in programs:
                    seen.add(program)
                    flags = {word for word in command[1:] if word.startswith("--") and " " not in word}
                    flags -= set(values.values())
                    unknown |= {(program, flag) for flag in flags - flags_of(programs[program])}
    assert {"relion_import", "relion_refine", "relion_run_motioncorr"} <= seen
    assert unknown <= ELSEWHERE, unknown - ELSEWHERE


def flags_of(entry: dict) -> set[str]:
    """The flags of one program's table, and --pipeline_control, which every program takes."""
    return {o["option"] for group in entry["groups"].values() for o in group} | {"--pipeline_control"}


# What the tables leave out: options without a default (a program insists on them), --continue, which
# relion_refine looks for before it reads its table, and what came after the release of three of the tables
# (3.1.3).
ELSEWHERE: set[tuple[str, str]] = {
    *((f"relion_{name}", "--i") for name in ("import", "run_motioncorr", "run_ctffind", "ctf_refine")),
    *((f"relion_{name}", "--i") for name in ("motion_refine", "align_symmetry", "star_handler", "autopick")),
    *(("relion_import", flag) for flag in ("--odir", "--ofile")),
    *(("relion_ctf_refine", flag) for flag in ("--f", "--o")),
    *(("relion_motion_refine", flag) for flag in ("--f", "--o", "--corr_mic")),
    *(("relion_manualpick", flag) for flag in ("--i", "--particle_diameter")),
    ("relion_align_symmetry", "--sym"),
    ("relion_refine", "--continue"),
    *(("relion_manualpick", flag) for flag in ("--minimum_pick_fom", "--topaz_denoise")),
    ("relion_particle_subtract", "--float16"),
}


@pytest.mark.req("X3")
def test_external_command() -> None:
    job = registry.by_label("relion.external").build(
        {
            "fn_exe": "scripts/pick.py",
            "in_mic": "CtfFind/job003/micrographs_ctf.star",
            "in_3dref": "my dir/ref.mrc",
            "param1_label": "threshold",
            "param1_value": "0.5",
            "param2_label": "fast",
            "nr_threads": "4",
            "other_args": "--note 'two words'",
        },
        "External/job012/",
        files=NamedFiles(),
    )
    assert job.commands == (
        (
            *("scripts/pick.py", "--o", "External/job012/"),
            *("--in_mics", "CtfFind/job003/micrographs_ctf.star", "--in_3dref", "my dir/ref.mrc"),
            *("--threshold", "0.5", "--fast", "--j", "4", "--note", "two words"),
        ),
    )


def test_names_are_never_split_nor_run() -> None:
    nasty = "a b/$(touch x);'`y`.star"
    job = registry.by_label("relion.refine3d").build(
        {"fn_img": nasty, "fn_ref": "ref.mrc", "nr_mpi": "3"}, "Refine3D/job007/", files=NamedFiles()
    )
    assert job.commands[0][job.commands[0].index("--i") + 1] == nasty
    shown = quoting.display(job.commands[0])
    assert quoting.words(shown) == job.commands[0]


def test_mpi_launcher() -> None:
    spec = registry.by_label("relion.refine3d")
    values = {"fn_img": "p.star", "fn_ref": "r.mrc", "nr_mpi": "4"}
    job = spec.build(values, env=SiteEnvironment(mpirun="srun --mpi=pmix"), files=NamedFiles())
    assert job.commands[0][0] == "relion_refine_mpi" and job.nr_mpi == 4
    assert job.local_commands[0][:5] == ("srun", "--mpi=pmix", "-n", "4", "relion_refine_mpi")
    alone = spec.build({**values, "nr_mpi": "1"}, files=NamedFiles())
    assert alone.local_commands == alone.commands and alone.commands[0][0] == "relion_refine"


def test_multibody_reads_bodies_from_disk(tmp_path: Path) -> None:
    (tmp_path / "bodies.star").write_text("data_\n\nloop_\n_rlnBodyMaskName #1\na.mrc\nb.mrc\nc.mrc\n\n")
    spec = registry.by_label("relion.multibody")
    values = {"fn_in": "Refine3D/job001/run_optimiser.star", "fn_bodies": "bodies.star"}
    job = spec.build(values, "MultiBody/job007/", files=DiskFiles(tmp_path))
    assert [n.path for n in job.output_nodes if "half1" in n.path] == [
        f"MultiBody/job007/run_half1_body00{k}_unfil.mrc" for k in (1, 2, 3)
    ]
    (tmp_path / "MultiBody/job007").mkdir(parents=True)
    (tmp_path / "MultiBody/job007/run_ct12_model.star").touch()
    (tmp_path / "MultiBody/job007/run_it003_half1_model.star").touch()
    again = spec.build({**values, "do_analyse": "Yes"}, "MultiBody/job007/", True, files=DiskFiles(tmp_path))
    assert again.commands[0][again.commands[0].index("--model") + 1] == "MultiBody/job007/run_ct12_model.star"


def test_editing_autopicks_uses_the_saved_manual_picking_form(tmp_path: Path) -> None:
    spec = registry.by_label("relion.autopick")
    values = {"fn_input_autopick": "mics.star", "continue_manual": "Yes"}
    plain = spec.build(values, "AutoPick/job007/", True, files=DiskFiles(tmp_path)).commands[0]
    assert plain[plain.index("--lowpass") + 1] == "20" and plain[plain.index("--scale") + 1] == "0.25"
    (tmp_path / ".gui_manualpickjob.star").write_text(
        "data_job\n\n_rlnJobTypeLabel relion.manualpick\n\ndata_joboptions_values\n\nloop_\n"
        "_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\ndiameter 180\nlowpass -1\n"
        "do_color Yes\nfn_color \"\"\ncolor_label 'rlnAutopickFigureOfMerit'\n"
    )
    saved = spec.build(values, "AutoPick/job007/", True, files=DiskFiles(tmp_path)).commands[0]
    assert saved[saved.index("--particle_diameter") + 1] == "180"
    assert "--lowpass" not in saved and "--color_label" in saved and "--color_star" not in saved


def test_missing_values_take_their_defaults() -> None:
    for spec in registry.all_specs():
        assert spec.build({}, files=NamedFiles()) == spec.build(spec.defaults(), files=NamedFiles())
