"""Every operator does what the reference's words for it say, and what it does not find it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relion_py.pipeline import Project
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.schemes import OPERATORS, Operator, Scheme, Variable
from relion_py.pipeline.schemes.operators import ALLOW_OUTSIDE, Context, make, perform, round_half_away

STAR = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
opticsGroup1 1

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnClassNumber #3
_rlnJobIsContinue #4
1@a.mrcs 12000.5 3 0
2@a.mrcs 9000.0 1 1
3@a.mrcs 15000.25 2 0
4@a.mrcs 11000.0 4 1
"""


@pytest.fixture
def root(project: Project) -> Path:
    (project.root / "parts.star").write_text(STAR)
    return project.root


class Bench:
    """A scheme with variables of every kind, to try one operator on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.scheme = Scheme("bench")
        for name, value in {"a": 7.0, "b": 2.0, "minus": -1.0, "n": 0.0}.items():
            self.scheme.floats[name] = Variable(value, value)
        for name, truth in {"yes": True, "no": False, "t": False}.items():
            self.scheme.bools[name] = Variable(truth, truth)
        self.string("s", "")

    def string(self, name: str, value: str) -> None:
        self.scheme.strings[name] = Variable(value, value)

    def __call__(self, kind: str, input1: str = "", input2: str = "", output: str = "", allow: bool = False):
        self.scheme.operators["TRY"] = Operator(kind, output or "undefined", input1, input2 or "undefined")
        perform(self.scheme, "TRY", Context(self.root, self.said.append, allow))
        found = self.scheme.variable(output)
        return found.value if found else None


@pytest.fixture
def bench(root: Path) -> Bench:
    return Bench(root)


def test_all_operators_of_the_reference_are_known() -> None:
    listed = """float=set float=plus float=minus float=mult float=divide float=round float=count_images
    float=count_words float=read_star float=star_table_max float=star_table_min float=star_table_avg
    float=star_table_sort_idx bool=set bool=and bool=or bool=not bool=gt bool=lt bool=ge bool=le bool=eq
    bool=file_exists bool=read_star string=set string=join string=before_first string=after_first
    string=before_last string=after_last string=read_star string=glob string=nth_word touch_file copy_file
    move_file delete_file email wait exit_maxtime exit"""
    assert set(listed.split()) | {"gate"} == set(OPERATORS)


# ---- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "input2", "result"),
    [
        ("float=set", "", 7),
        ("float=plus", "b", 9),
        ("float=plus", "1", 8),  # the program's own help adds the number 1
        ("float=minus", "b", 5),
        ("float=mult", "b", 14),
        ("float=divide", "b", 3.5),
    ],
)
def test_float_arithmetic(bench: Bench, kind: str, input2: str, result: float) -> None:
    assert bench(kind, "a", input2, "n") == result
    assert bench.scheme.floats["a"].value == 7 and bench.scheme.floats["n"].original == 0


@pytest.mark.parametrize(("value", "whole"), [(2.5, 3), (2.4, 2), (-2.5, -3), (-2.4, -2), (0, 0)])
def test_float_round(bench: Bench, value: float, whole: float) -> None:
    bench.scheme.floats["a"].value = value
    assert bench("float=round", "a", output="n") == whole == round_half_away(value)


def test_float_divide_by_zero_is_named(bench: Bench) -> None:
    with pytest.raises(PipelineError, match=r"TRY \(float=divide\).*n is zero"):
        bench("float=divide", "a", "n", "b")


def test_float_count_images(bench: Bench) -> None:
    bench.string("file", "parts.star")
    bench.string("optics", "optics")
    assert bench("float=count_images", "file", output="n") == 4, "particles are counted if nothing is said"
    assert bench("float=count_images", "file", "optics", "n") == 1
    bench.string("file", "not_yet.star")
    assert bench("float=count_images", "file", output="n") == 0, "a file that is not there has no images"
    bench.string("file", "parts.star")
    bench.string("micrographs", "micrographs")
    with pytest.raises(PipelineError, match=r"TRY .*data_micrographs of parts.star"):
        bench("float=count_images", "file", "micrographs", "n")


def test_float_count_words(bench: Bench) -> None:
    for text, count in (("one,two,three", 3), ("one", 1), ("undefined", 0), ("", 0)):
        bench.string("words", text)
        assert bench("float=count_words", "words", output="n") == count


# ---- STAR files ----------------------------------------------------------------------------------------


def test_read_star(bench: Bench) -> None:
    bench.string("defocus", "parts.star,particles,rlnDefocusU")
    assert bench("float=read_star", "defocus", output="n") == 12000.5, "the first row, if nothing is said"
    assert bench("float=read_star", "defocus", "b", "n") == 15000.25, "rows are counted from 0"
    bench.string("name", "parts.star,particles,rlnImageName")
    assert bench("string=read_star", "name", "b", "s") == "3@a.mrcs"
    bench.string("flag", "parts.star,particles,rlnJobIsContinue")
    assert bench("bool=read_star", "flag", "1", "t") is True
    assert bench("bool=read_star", "flag", "0", "t") is False


@pytest.mark.parametrize(("kind", "result"), [("max", 15000.25), ("min", 9000.0), ("avg", 11750.1875)])
def test_star_table(bench: Bench, kind: str, result: float) -> None:
    bench.string("where", "parts.star,particles,rlnDefocusU")
    assert bench(f"float=star_table_{kind}", "where", output="n") == result


@pytest.mark.parametrize(("place", "row"), [("1", 2), ("2", 0), ("-1", 1), ("-2", 3), ("minus", 1)])
def test_star_table_sort_idx(bench: Bench, place: str, row: int) -> None:
    """The reference's words: 1 is the largest, -1 the smallest value."""
    bench.string("where", "parts.star,particles,rlnDefocusU")
    assert bench("float=star_table_sort_idx", "where", place, "n") == row


@pytest.mark.parametrize(
    ("kind", "where", "input2", "wanted"),
    [
        ("float=read_star", "gone.star,particles,rlnDefocusU", "", "the file gone.star"),
        ("float=read_star", "parts.star,movies,rlnDefocusU", "", "data_movies of parts.star"),
        ("float=read_star", "parts.star,particles,rlnDefocusV", "", "_rlnDefocusV"),
        ("float=read_star", "parts.star,particles,rlnDefocusU", "9", "row 9"),
        ("float=read_star", "parts.star,particles,rlnImageName", "", "number.*1@a.mrcs"),
        ("float=read_star", "parts.star", "", "file,table,label"),
        ("float=star_table_max", "parts.star,particles,rlnImageName", "", "number"),
        ("float=star_table_sort_idx", "parts.star,particles,rlnDefocusU", "0", "1 \\(largest\\)"),
    ],
)
def test_star_operator_names_itself_and_what_it_wanted(
    bench: Bench, kind: str, where: str, input2: str, wanted: str
) -> None:
    bench.string("where", where)
    with pytest.raises(PipelineError, match=rf"TRY \({kind}\).*{wanted}"):
        bench(kind, "where", input2, "n")


# ---- bools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_bool_logic(bench: Bench, first: bool, second: bool) -> None:
    bench.scheme.bools["yes"].value, bench.scheme.bools["no"].value = first, second
    assert bench("bool=set", "yes", output="t") is first
    assert bench("bool=not", "yes", output="t") is (not first)
    assert bench("bool=and", "yes", "no", "t") is (first and second)
    assert bench("bool=or", "yes", "no", "t") is (first or second)


@pytest.mark.parametrize(
    ("kind", "below", "equal", "above"),
    [
        ("gt", False, False, True),
        ("lt", True, False, False),
        ("ge", False, True, True),
        ("le", True, True, False),
        ("eq", False, True, False),
    ],
)
def test_bool_comparison(bench: Bench, kind: str, below: bool, equal: bool, above: bool) -> None:
    for value, expected in ((1.0, below), (2.0, equal), (3.0, above)):
        bench.scheme.floats["a"].value = value
        assert bench(f"bool={kind}", "a", "b", "t") is expected
        assert bench(f"bool={kind}", "a", "2", "t") is expected


def test_bool_file_exists(bench: Bench) -> None:
    for file, there in (("parts.star", True), ("none.star", False), ("", False), ("undefined", False)):
        bench.string("file", file)
        assert bench("bool=file_exists", "file", output="t") is there


# ---- strings -------------------------------------------------------------------------------------------


def test_string_set_and_join(bench: Bench) -> None:
    bench.string("one", "Class2D/")
    bench.string("two", "run.out")
    assert bench("string=set", "one", output="s") == "Class2D/"
    assert bench("string=join", "one", "two", "s") == "Class2D/run.out"


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("before_first", "Movies"),
        ("after_first", "day1/x.tiff"),
        ("before_last", "Movies/day1"),
        ("after_last", "x.tiff"),
    ],
)
def test_string_parts(bench: Bench, kind: str, result: str) -> None:
    bench.string("path", "Movies/day1/x.tiff")
    bench.string("slash", "/")
    bench.string("absent", "#")
    assert bench(f"string={kind}", "path", "slash", "s") == result
    assert bench(f"string={kind}", "path", "absent", "s") == "Movies/day1/x.tiff"


def test_string_glob(bench: Bench) -> None:
    for name in ("b", "a", "c"):
        (bench.root / f"{name}.tif").touch()
    bench.string("pattern", "*.tif")
    assert bench("string=glob", "pattern", output="s") == "a.tif,b.tif,c.tif"
    bench.string("pattern", "*.eer")
    assert bench("string=glob", "pattern", output="s") == "undefined"


@pytest.mark.parametrize(
    ("place", "word"), [("1", "x"), ("3", "z"), ("4", "undefined"), ("-1", "z"), ("-3", "x"), ("0", "undefined")]
)
def test_string_nth_word(bench: Bench, place: str, word: str) -> None:
    """Words are counted from 1, negative ones from the back."""
    bench.string("list", "x,y,z")
    assert bench("string=nth_word", "list", place, "s") == word


# ---- files ---------------------------------------------------------------------------------------------


def test_touch_file(bench: Bench) -> None:
    bench.string("file", "new/flag")
    bench("touch_file", "file")
    assert (bench.root / "new/flag").read_bytes() == b""
    bench.string("file", "parts.star")
    bench("touch_file", "file")
    assert (bench.root / "parts.star").read_text() == STAR, "what is in a file stays"


def test_copy_file(bench: Bench) -> None:
    bench.string("source", "parts.star")
    bench.string("target", "kept/copy.star")
    bench("copy_file", "source", "target")
    assert (bench.root / "kept/copy.star").read_text() == STAR == (bench.root / "parts.star").read_text()
    bench.string("target", "kept/")
    bench("copy_file", "source", "target")
    assert (bench.root / "kept/parts.star").exists()


def test_move_file(bench: Bench) -> None:
    bench.string("source", "parts.star")
    bench.string("target", "kept/moved.star")
    bench("move_file", "source", "target")
    assert (bench.root / "kept/moved.star").read_text() == STAR and not (bench.root / "parts.star").exists()
    with pytest.raises(PipelineError, match=r"TRY \(move_file\).*wanted the file parts.star"):
        bench("move_file", "source", "target")


def test_delete_file(bench: Bench) -> None:
    bench.string("file", "parts.star")
    bench("delete_file", "file")
    assert not (bench.root / "parts.star").exists()
    bench("delete_file", "file")  # as rm -f: what is gone is gone


def test_wildcards_and_no_shell(bench: Bench) -> None:
    for name in ("1.tmp", "2.tmp", "$(touch hacked)", "a; touch hacked"):
        (bench.root / name).touch()
    bench.string("file", "*.tmp")
    bench("delete_file", "file")
    assert not list(bench.root.glob("*.tmp"))
    for name in ("$(touch hacked)", "a; touch hacked"):
        bench.string("file", name)
        bench("delete_file", "file")
        assert not (bench.root / name).exists()
    assert not (bench.root / "hacked").exists()


@pytest.mark.parametrize("kind", ["touch_file", "copy_file", "move_file", "delete_file"])
def test_file_operators_stay_inside_the_project(bench: Bench, kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (bench.root / "door").symlink_to(outside)
    bench.string("target", "../outside/target")
    for place in ("../outside/precious", str(outside / "precious"), "door/precious"):
        bench.string("file", place)
        with pytest.raises(PipelineError, match=r"TRY .*outside the project.*allow_outside_files"):
            bench(kind, "file", "target", allow=True)
        bench.scheme.bools[ALLOW_OUTSIDE] = Variable(True, True)
        with pytest.raises(PipelineError, match=r"TRY .*outside the project.*--allow_outside"):
            bench(kind, "file", "target")
        del bench.scheme.bools[ALLOW_OUTSIDE]
    assert [file.name for file in outside.iterdir()] == ["precious"]


def test_file_operators_leave_when_scheme_and_person_agree(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    bench.string("source", "parts.star")
    bench.string("target", str(tmp_path / "disc") + "/")
    bench.scheme.bools[ALLOW_OUTSIDE] = Variable(True, True)
    bench("copy_file", "source", "target", allow=True)
    assert (tmp_path / "disc/parts.star").read_text() == STAR


@pytest.mark.parametrize("kind", ["touch_file", "delete_file"])
def test_the_projects_own_files_are_left_alone(bench: Bench, kind: str) -> None:
    before = (bench.root / "default_pipeline.star").read_bytes()
    bench.string("file", "Schemes/../default_pipeline.star")
    with pytest.raises(PipelineError, match="belongs to the project"):
        bench(kind, "file")
    assert (bench.root / "default_pipeline.star").read_bytes() == before


def test_links_that_lead_out_are_not_written_through(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (bench.root / "link").symlink_to(tmp_path / "precious")
    bench.string("source", "parts.star")
    bench.string("link", "link")
    with pytest.raises(PipelineError, match="outside the project"):
        bench("copy_file", "source", "link")
    bench("delete_file", "link")
    assert (tmp_path / "precious").read_text() == "precious" and not (bench.root / "link").is_symlink()


# ---- paths of jobs, and what cannot work ------------------------------------------------------------------


def test_scheme_paths_mean_the_current_job(bench: Bench, example: Callable) -> None:
    (bench.root / "Import/job007").mkdir(parents=True)
    (bench.root / "Import/job007/movies.star").touch()
    bench.scheme.add_job("imp", "new")
    bench.string("here", "Schemes/bench/imp/movies.star")
    assert bench("bool=file_exists", "here", output="t") is False, "it has not run yet"
    bench.scheme.jobs["imp"].current_name = "Import/job007/"
    assert bench("bool=file_exists", "here", output="t") is True
    assert bench.scheme.strings["here"].value == "Schemes/bench/imp/movies.star", "the variable stays"
    store = example("prep")
    with store.change() as prep:
        prep.jobs["importmovies"].current_name = "Import/job007/"
    bench.string("there", "Schemes/prep/importmovies/movies.star")
    assert bench("string=set", "there", output="s") == "Import/job007/movies.star"


@pytest.mark.parametrize(
    ("kind", "input1", "input2", "output", "words"),
    [
        ("float=plus", "a", "b", "t", "float variable as output"),
        ("float=plus", "yes", "b", "n", "float variable as input1"),
        ("float=plus", "a", "two", "n", "float variable or a number as input2"),
        ("bool=and", "yes", "a", "t", "bool variable as input2"),
        ("string=join", "s", "a", "s", "string variable as input2"),
        ("wait", "s", "", "", "float variable as input1"),
        ("float=power", "a", "b", "n", "no operator of the type"),
    ],
)
def test_operators_that_cannot_work_are_refused(
    bench: Bench, kind: str, input1: str, input2: str, output: str, words: str
) -> None:
    with pytest.raises(PipelineError, match=words):
        make(bench.scheme, kind, input1, input2, output)
    assert not bench.scheme.operators


def test_made_up_names_are_the_references(bench: Bench) -> None:
    assert make(bench.scheme, "float=plus", "a", "b", "n") == "n=a_PLUS_b"
    assert make(bench.scheme, "bool=ge", "a", "b", "t") == "t=a_GE_b"
    assert make(bench.scheme, "copy_file", "s", "s") == "COPY_s_TO_s"
    assert make(bench.scheme, "exit") == "EXIT"
