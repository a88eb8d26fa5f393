"""relion_schemer: a whole scheme built, run, edited, copied and reset with the options of the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relion_py.pipeline import Project, schemer_cli
from relion_py.pipeline.schemes import Edge, Operator, SchemeStore, Variable

from .conftest import runs, script_job


@pytest.fixture
def schemer(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """schemer("--scheme x ...") calls the program in the project: (exit status, stdout, stderr)."""
    monkeypatch.chdir(project.root)

    def call(line: str, *words: str) -> tuple[int, str, str]:
        status = schemer_cli.main([*line.split(), *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_every_option_of_the_reference_is_there(shared: Path) -> None:
    programs = json.loads((shared / "reference" / "programs.json").read_text())["relion_schemer"]
    listed = {option["option"]: option["kind"] for group in programs["groups"].values() for option in group}
    ours = {name: "flag" if option.is_flag else "value" for name, option in schemer_cli.COMMAND_LINE.options.items()}
    assert listed.items() <= ours.items()


@pytest.mark.req("S2")
def test_a_scheme_is_built_and_run_by_options_alone(project: Project, schemer) -> None:
    """The examples of the reference's own help, one after the other."""
    script_job(project, SchemeStore(project.root, "source"), "my_job")
    for line in (
        "--add variable --name iter --value 0",
        "--add variable --name iter_step --value 1 --original_value 2",
        "--add variable --name is_finished --value False",
        "--add variable --name initial_model --value map.mrc",
        "--add operator --name INCR_iter --type float=plus --i iter --i2 iter_step --o iter",
        "--add operator --name CHECK_iter --type bool=ge --i iter --i2 2 --o is_finished",
        "--add operator --name TOUCH_inimodel --type touch_file --i initial_model",
        "--add operator --type exit",
        "--add job --i Schemes/source/my_job --mode continue",
        "--add edge --i my_job --o INCR_iter",
        "--add edge --i INCR_iter --o CHECK_iter",
        "--add fork --i CHECK_iter --bool is_finished --o TOUCH_inimodel --o2 my_job",
        "--add edge --i TOUCH_inimodel --o EXIT",
    ):
        assert schemer(f"--scheme test {line}") == (0, "", ""), line
    scheme = SchemeStore(project.root, "test").read()
    assert scheme.floats["iter_step"] == Variable(1.0, 2.0)
    assert scheme.operators["INCR_iter"] == Operator("float=plus", "iter", "iter", "iter_step")
    assert Edge("CHECK_iter", "my_job", True, "TOUCH_inimodel", "is_finished") in scheme.edges
    assert scheme.jobs["my_job"].mode == "continue"

    status, out, err = schemer("--scheme test --run --verb 2")
    assert (status, err) == (0, "") and "INCR_iter: iter -> 2" in out
    assert len(runs(project)) == 2 and (project.root / "map.mrc").exists()
    status, out, _ = schemer("--scheme test --list")
    assert status == 0 and "iter = 2" in out and "does not run, at EXIT" in out

    assert schemer("--scheme test --reset")[0] == 0
    scheme = SchemeStore(project.root, "test").read()
    assert scheme.floats["iter"].value == 0 and scheme.floats["iter_step"].value == 2
    assert scheme.jobs["my_job"].current_name == "my_job" and not scheme.jobs["my_job"].has_started
    assert (project.root / "Schemes/test/scheme.star.bck").exists()


def test_values_are_set(project: Project, schemer, example) -> None:
    example("proc")
    for line in (
        "--set_var min_nr_parts_3d --value 100 --original_value 200",
        "--set_var do_log --value false",
        "--set_var iniref --value ref.mrc",
        "--set_job_mode extract --value new",
        "--set_has_started extract --value True",
        "--set_current_node extract",
    ):
        assert schemer(f"--scheme proc {line}") == (0, "", ""), line
    scheme = SchemeStore(project.root, "proc").read()
    assert scheme.floats["min_nr_parts_3d"] == Variable(100.0, 200.0)
    assert scheme.bools["do_log"].value is False and scheme.bools["do_log"].original is True
    assert scheme.strings["iniref"].value == "ref.mrc" and scheme.strings["iniref"].original == "None"
    assert scheme.jobs["extract"].mode == "new" and scheme.jobs["extract"].has_started
    assert scheme.current_node == "extract"
    assert schemer("--scheme proc --set_var iniref --value", "") == (0, "", ""), "an empty string is a value"
    assert SchemeStore(project.root, "proc").read().strings["iniref"].value == ""
    assert schemer("--scheme Schemes/proc/ --copy Schemes/proc2") == (0, "", "")
    assert schemer("--list") == (0, "proc\nproc2\n", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--scheme proc", "Nothing to do"),
        ("--run", "--scheme"),
        ("--scheme none --run", "no scheme called none"),
        ("--scheme ../out --add variable --name a --value 1", "cannot name a scheme"),
        ("--scheme proc --set_var gone --value 1", "'gone'"),
        ("--scheme proc --set_var do_log --value maybe", "maybe"),
        ("--scheme proc --set_var min_nr_parts_3d --value few", "number"),
        ("--scheme proc --set_job_mode extract --value old", "new or continue"),
        ("--scheme proc --set_job_mode gone --value new", "'gone'"),
        ("--scheme proc --set_current_node gone", "'gone'"),
        ("--scheme proc --add edge --i extract --o WAIT", "leaves extract already"),
        ("--scheme proc --add edge --i gone --o WAIT", "'gone'"),
        ("--scheme proc --add loop", "variable, operator, job, edge or fork"),
        ("--scheme proc --add operator --name X --type float=power", "float=power"),
        ("--scheme proc --add job --i Schemes/proc/extract", "already"),
        ("--scheme proc --add job --i nowhere", "nowhere"),
        ("--scheme proc --decide ASK --value True", "does not wait"),
        ("--scheme proc --run --run_pipeline other", "default"),
        ("--scheme", "followed by a value"),
    ],
)
def test_mistakes_are_told_in_one_sentence(project: Project, schemer, example, line: str, words: str) -> None:
    store = example("proc")
    before = store.read()
    status, _, err = schemer(line)
    assert status == 1 and err.startswith("ERROR: ") and words in err and err.count("\n") == 1
    assert store.read() == before
    assert not list(project.root.glob(".relion_lock_scheme_*"))


def test_abort_of_a_scheme_that_does_not_run_harms_nothing(project: Project, schemer, example) -> None:
    example("prep")
    status, out, _ = schemer("--scheme prep --abort")
    assert status == 0 and "at the node WAIT" in out
    assert (project.root / "Schemes/prep/RELION_JOB_ABORT_NOW").exists()
    assert schemer("--scheme prep --run --steps 1")[0] == 0, "the next run forgets the old request"
