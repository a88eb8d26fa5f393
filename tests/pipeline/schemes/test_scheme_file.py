"""scheme.star: the reference's examples are read right, and nothing is lost or invented on writing."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.schemes import Edge, Operator, Scheme, SchemeJob, SchemeStore, Variable, scheme_file
from relion_py.pipeline.schemes.drawing import lay_out

from .conftest import EXAMPLES


def tables(path: Path) -> dict:
    """A scheme.star as the independent reader `starfile` sees it, rows in the order of their names."""
    found = {}
    for name, table in starfile.read(path, always_dict=True).items():
        if isinstance(table, dict):
            found[name] = table
        else:
            ordered = table if name == "scheme_edges" else table.sort_values(table.columns[0])
            found[name] = ordered.astype(str).values.tolist(), list(table.columns)
    return found


@pytest.mark.req("S1")
@pytest.mark.parametrize("name", ["prep", "proc"])
def test_example_survives_reading_and_writing(example: Callable[[str], SchemeStore], name: str, tmp_path: Path) -> None:
    store = example(name)
    before = tables(store.file)
    scheme = store.read()
    with store.change():
        pass
    assert tables(store.file) == before
    assert store.read() == scheme


def test_prep_is_what_its_file_says(example: Callable[[str], SchemeStore]) -> None:
    scheme = example("prep").read()
    assert scheme.path == "Schemes/prep/" and scheme.current_node == "WAIT"
    assert {name: v.value for name, v in scheme.floats.items()} == {
        "do_at_most": 50.0,
        "maxtime_hr": 48.0,
        "wait_sec": 180.0,
    }
    assert scheme.operators["WAIT"] == Operator("wait", input1="wait_sec")
    assert scheme.jobs["ctffind"] == SchemeJob("ctffind", "continue", False)
    assert scheme.edges[0] == Edge("WAIT", "EXIT_maxtime") and len(scheme.edges) == 5


def test_proc_has_forks_bools_and_strings(example: Callable[[str], SchemeStore]) -> None:
    scheme = example("proc").read()
    assert scheme.bools["do_log"].value is True and scheme.bools["do_3d"].value is False
    assert scheme.strings["iniref"].value == "None"
    assert Edge("HAS_ctffind", "WAIT", True, "select_mics", "has_ctffind") in scheme.edges
    assert scheme.jobs["class2d"].mode == "new"


@pytest.mark.parametrize("name", ["prep", "proc"])
def test_written_in_the_layout_of_release_5(example: Callable[[str], SchemeStore], name: str) -> None:
    text = scheme_file.dumps(example(name).read())
    golden = gzip.decompress((EXAMPLES / name / "scheme.star.gz").read_bytes()).decode()
    labels = [line.strip() for line in text.splitlines() if line.startswith(("data_", "_rln", "loop_"))]
    expected = [line.strip() for line in golden.splitlines() if line.startswith(("data_", "_rln", "loop_"))]
    assert labels == expected
    assert "do_at_most" not in text or "do_at_most    50.000000    50.000000 \n" in text


@pytest.mark.parametrize("name", ["prep", "proc"])
def test_examples_can_be_drawn(example: Callable[[str], SchemeStore], name: str) -> None:
    scheme = example(name).read()
    layout, back = lay_out(scheme)
    assert set(layout.places) == set(scheme.nodes)
    assert len(set(layout.places.values())) == len(scheme.nodes), "two nodes stand on one place"
    row = {node: place[1] for node, place in layout.places.items()}
    assert row["WAIT"] == 0, "the start is on top"
    arrows = {(edge.source, target) for edge in scheme.edges for target in edge.targets}
    assert {arrow for arrow in arrows if row[arrow[0]] >= row[arrow[1]]} == set(back)
    assert all(target == "WAIT" for _, target in back), "what leads back leads to the start here"


def test_unknown_columns_and_tables_survive(project) -> None:
    store = SchemeStore(project.root, "odd")
    store.directory.mkdir(parents=True)
    store.file.write_text(
        "data_scheme_general\n_rlnSchemeName Schemes/odd/\n_rlnSchemeCurrentNodeName A\n_labMood good\n\n"
        "data_scheme_floats\nloop_\n_rlnSchemeFloatVariableName #1\n_rlnSchemeFloatVariableValue #2\n"
        "_rlnSchemeFloatVariableResetValue #3\n_labUnit #4\nx 1 2 mm\n\n"
        "data_lab_notes\nloop_\n_labNote #1\nhello\n"
    )
    with store.change() as scheme:
        scheme.floats["x"].value = 7.0
        scheme.set_variable("y", "5")
    text = store.file.read_text()
    assert "_labMood" in text and "data_lab_notes" in text
    found = {row[0]: row for row in (line.split() for line in text.splitlines()) if row}
    assert found["x"] == ["x", "7.000000", "2.000000", "mm"]
    assert found["y"] == ["y", "5.000000", "5.000000", "undefined"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data_other\n_x 1\n", "scheme_general"),
        (
            "data_scheme_general\n_rlnSchemeName S\n\ndata_scheme_bools\nloop_\n_rlnSchemeBooleanVariableName\n"
            "_rlnSchemeBooleanVariableValue\n_rlnSchemeBooleanVariableResetValue\nb maybe 0\n",
            "maybe",
        ),
        (
            "data_scheme_general\n_rlnSchemeName S\n\ndata_scheme_floats\nloop_\n_rlnSchemeFloatVariableName\nx\n",
            "rlnSchemeFloatVariableValue",
        ),
    ],
)
def test_damaged_file_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad" / "scheme.star"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(PipelineError, match=words):
        scheme_file.read(path)


names = st.text("abcXYZ_=019", min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\a", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strings=st.dictionaries(names, st.tuples(texts, texts), max_size=4),
    bools=st.dictionaries(names, st.tuples(st.booleans(), st.booleans()), max_size=4),
    numbers=st.dictionaries(names, st.tuples(st.integers(-999, 999), st.integers(-999, 999)), max_size=4),
    edges=st.lists(st.tuples(names, names, st.booleans(), names, names), max_size=4),
)
def test_any_scheme_is_read_as_it_was_written(tmp_path: Path, strings, bools, numbers, edges) -> None:
    scheme = Scheme("any", "A")
    scheme.strings = {name: Variable(*pair) for name, pair in sorted(strings.items())}
    scheme.bools = {name: Variable(*pair) for name, pair in sorted(bools.items())}
    scheme.floats = {name: Variable(float(a), float(b)) for name, (a, b) in sorted(numbers.items())}
    scheme.edges = [Edge(*parts) for parts in edges]
    path = tmp_path / "any" / "scheme.star"
    path.parent.mkdir(exist_ok=True)
    scheme_file.write(path, scheme)
    assert scheme_file.read(path) == scheme
