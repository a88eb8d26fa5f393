"""STAR files: exact text both ways, RELION's grammar, errors that say where."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from relion_py.compute.io import star
from relion_py.compute.io.star import StarError, StarFile, Table

# --------------------------------------------------------------------------- grammar


def test_text_is_kept_exactly():
    table = star.parse('data_x\n\nloop_\n_a #1\n_b #2\n_c #3\n001 None <NA>\n1e5 "" \'  two words \'\n0.10 a#b "#"\n')[
        "x"
    ]
    assert table.strings("a") == ["001", "1e5", "0.10"]
    assert table.strings("b") == ["None", "", "a#b"]
    assert table.strings("c") == ["<NA>", "  two words ", "#"]


def test_list_block_and_value():
    table = star.parse("data_general\n_rlnA 5 # why\n_rlnB 'two words'\n")["general"]
    assert not table.loop
    assert len(table) == 1
    assert star.parse("data_x\nloop_ # why\n_a # one\n1\n")["x"].strings("a") == ["1"]
    assert table.value("rlnA") == "5"
    assert table.value("rlnB") == "two words"
    assert table.value("rlnC", "none") == "none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"5\'-end"', "5'-end"),
        ('"a"b"', 'a"b'),  # a quote inside a value closes only before white space
        ('"a\a" b"', 'a" b'),  # RELION's bell keeps a quote from closing
        ("5'-end", "5'-end"),
        ("a#b", "a#b"),
    ],
)
def test_quotes_by_relions_rule(text, expected):
    assert star.parse(f"data_\n_x {text}\n")[""].value("x") == expected


def test_windows_line_ends_and_missing_final_newline():
    one = star.parse("data_x\r\n\r\nloop_\r\n_a\r\n_b\r\n1 2\r\n3 4")
    assert one["x"].strings("b") == ["2", "4"]
    assert star.parse("data_x\rloop_\r_a\r1\r2")["x"].strings("a") == ["1", "2"]


def test_labels_without_numbers_and_tables_without_rows():
    file = star.parse("data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n\n\ndata_b\n\nloop_\n_x #1\n")
    assert file[""].labels == ["rlnCoordinateX", "rlnCoordinateY"]
    assert len(file[""]) == len(file["b"]) == 0
    assert star.parse(star.dumps(file)).blocks == file.blocks


def test_comments_and_empty_lines_between_rows_lose_no_row():
    table = star.parse("data_x\nloop_\n_a\n_b\n1 2\n\n# comment\n3 4 # tail\n")["x"]
    assert table.strings("a") == ["1", "3"]


def test_comments_of_blocks_survive():
    text = "# version 30001\n# --i x\ndata_a\n# note\n_x 1\n\n# version 50001\ndata_b\n_y 2\n\n# end\n"
    file = star.parse(text)
    assert file["a"].comments == ("# version 30001", "# --i x")
    assert file["a"].notes == ("# note",)
    assert file["b"].comments == ("# version 50001",)
    assert file.closing_comments == ("# end",)
    again = star.parse(star.dumps(file))
    assert [(t.comments, t.notes) for _, t in again.blocks] == [(t.comments, t.notes) for _, t in file.blocks]
    assert again.closing_comments == ("# end",)


def test_file_names_that_look_like_blocks_are_rows():
    table = star.parse("data_x\n\nloop_\n_a\n_b\ndata_1.mrc 1\n\ndata_2.mrc 2\n")["x"]
    assert table.strings("a") == ["data_1.mrc", "data_2.mrc"]
    single = star.parse("data_x\n\nloop_\n_a\nfirst\ndata_1.mrc\n\ndata_y\n_b 1\n")
    assert single["x"].strings("a") == ["first", "data_1.mrc"]
    assert list(single) == ["x", "y"]


def test_duplicate_blocks_are_kept_and_reported():
    file = star.parse("data_x\n_a 1\n\ndata_y\n_a 2\n\ndata_x\n_a 3\n")
    assert file.duplicates == ("x",)
    assert file["x"].value("a") == "1"
    assert star.parse(star.dumps(file)).blocks == file.blocks


def test_a_list_and_a_loop_in_one_block():
    file = star.parse("data_x\n_a 1\nloop_\n_b #1\n2\n3\n\ndata_y\n_c 4\n")
    assert [(name, t.loop) for name, t in file.blocks] == [("x", False), ("x", True), ("y", False)]
    text = star.dumps(file)
    assert text.count("data_x") == 1
    assert star.parse(text).blocks == file.blocks


def test_a_missing_last_value_of_two_is_empty():
    # RELION 3.1 wrote empty job options so (readStarLoop: "fn_mtf <empty>")
    table = star.parse("data_j\nloop_\n_k\n_v\nfn_mtf \nangpix 1\n")["j"]
    assert table.strings("v") == ["", "1"]


def test_bytes_that_are_not_utf8_survive(tmp_path):
    path = tmp_path / "odd.star"
    path.write_bytes(b"data_x\n_a caf\xe9\n_b \xc3\xa9t\xc3\xa9\n")
    star.write(path, star.read(path))
    assert b"caf\xe9\n" in path.read_bytes()
    assert star.read(path)["x"].value("b") == "été"


def test_no_break_space_is_no_separator():
    assert star.parse("data_x\nloop_\n_a\n_b\none\u00a0two 2\n")["x"].strings("a") == ["one\u00a0two"]


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("hello\n", 1, "data_"),
        ("data_x\nloop_\n_a\n_b\n1 2\n1 2 3\n", 6, "more values (3)"),
        ("data_x\nloop_\n_a\n_b\n_c\n1 2\n", 6, "fewer values (2)"),
        ("data_x\nloop_\n_a\n_a\n", 4, "occurs twice"),
        ("data_x\nloop_\n1 2\n", 2, "not followed by any label"),
        ("data_x\n_a\n", 2, "one value"),
        ("data_x\n_a 1 2\n", 2, "one value"),
        ('data_x\n_a "open\n', 2, "never closed"),
        ("data_x\nwords\n", 2, "loop_"),
    ],
)
def test_errors_name_file_line_and_fault(tmp_path, text, line, what):
    path = tmp_path / "bad.star"
    path.write_text(text)
    with pytest.raises(StarError) as caught:
        star.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert what in message
    assert message.endswith(".")


def test_errors_of_files_and_values(tmp_path):
    with pytest.raises(StarError, match="no such file"):
        star.read(tmp_path / "none.star")
    (tmp_path / "binary.star").write_bytes(b"data_\0\1\2")
    with pytest.raises(StarError, match="binary"):
        star.read(tmp_path / "binary.star")
    (tmp_path / "empty.star").write_bytes(b"")
    assert len(star.read(tmp_path / "empty.star")) == 0
    table = star.parse("data_x\nloop_\n_a\n_b\n1 2\nword 3.5\n")["x"]
    with pytest.raises(StarError, match=r'row 2 of _a is "word", not a number'):
        table.floats("a")
    with pytest.raises(StarError, match=r'row 2 of _b is "3.5", not a whole number'):
        table.ints("b")
    with pytest.raises(StarError, match="no column _c"):
        table.strings("c")
    with pytest.raises(StarError, match="no block data_y"):
        star.parse("data_x\n_a 1\n")["y"]
    assert star.parse("data_x\n_a 1\n").get("y") is None


@pytest.mark.parametrize("value", ["two\nlines", "bell\a", "return\r"])
def test_values_that_no_quotes_can_hold_are_refused(value):
    with pytest.raises(StarError, match="line break or control"):
        star.dumps({"x": Table({"a": [value]})})


# --------------------------------------------------------------------------- tables


def test_setting_columns_formats_numbers_as_relion_does():
    # metadata_table.cpp, getValueToString: 12 characters, e-notation below 0.001 and above 100000
    table = Table({"rlnX": np.array([1.5, -1.5, 0.0005, -0.0005, 123456.7, 0.0])})
    assert table.strings("rlnX") == [
        "1.500000", "-1.50000", "5.000000e-04", "-5.00000e-04", "1.234567e+05", "0.000000",
    ]  # fmt: skip
    table.set("rlnN", range(6))
    table.set("rlnB", [True, False, True, True, True, True])
    table.set("rlnOne", "same")
    assert table.row(1) == {"rlnX": "-1.50000", "rlnN": "1", "rlnB": "0", "rlnOne": "same"}
    assert table.ints("rlnN").dtype == np.int64
    assert table.floats("rlnX").dtype == np.float64


def test_rows_append_select_rename_remove():
    table = Table.from_rows(["a", "b"], [["1", "x"], ["2", "y"]])
    table.append({"b": "z", "a": 3})
    assert [row["b"] for row in table.rows()] == ["x", "y", "z"]
    assert table.select([2, 0]).strings("a") == ["3", "1"]
    assert table.select(np.array([False, True, False])).strings("b") == ["y"]
    table.rename("b", "c")
    table.remove("a")
    assert table.labels == ["c"]
    with pytest.raises(StarError, match="rows"):
        table.set("d", ["1"])
    with pytest.raises(StarError, match="differ"):
        table.append({"d": "1"})
    with pytest.raises(StarError, match="label"):
        table.set("_c", "1")


# --------------------------------------------------------------------------- round trips

_VALUE = st.text(
    st.characters(exclude_characters="\n\r\a\0", exclude_categories=("Cs",)), max_size=12
) | st.sampled_from(["", "None", "<NA>", "001", "data_x", "loop_", "_a", "#", ";", '"', "'", '" "', "a' b"])
_LABEL = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True)
_NAME = st.from_regex(r"[A-Za-z0-9_]{0,8}", fullmatch=True)


@st.composite
def _tables(draw):
    labels = draw(st.lists(_LABEL, min_size=1, max_size=4, unique=True))
    loop = draw(st.booleans())
    rows = draw(st.integers(0, 5)) if loop else 1
    columns = {label: draw(st.lists(_VALUE, min_size=rows, max_size=rows)) for label in labels}
    return Table(columns, loop=loop)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(_NAME, _tables()), max_size=4, unique_by=lambda pair: pair[0]))
def test_what_is_written_is_read_back(blocks):
    file = StarFile(blocks)
    assert star.parse(star.dumps(file)).blocks == file.blocks


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("data_loop_x\n\t '\"#;1"), max_size=80))
def test_no_text_does_worse_than_a_star_error(text):
    try:
        file = star.parse(text)
    except StarError:
        return
    assert star.parse(star.dumps(file)).blocks == file.blocks


_FEW_WORDS = st.sampled_from(["1", "2.5", "a@b", "data_x"])
_MANY_WORDS = _FEW_WORDS | st.sampled_from(["loop_", "#c", "'q r'", '"', "\x1f", "é", "\u00a0", "x\x0by", ";z", "a#b"])


@st.composite
def _loops(draw):
    """Text of a loop whose rows are mostly, and not all, plain."""
    width = draw(st.integers(1, 3))
    row = st.lists(_FEW_WORDS, min_size=width, max_size=width)
    odd = st.lists(_MANY_WORDS, max_size=4)
    rows = draw(st.lists(row | row | row | odd, max_size=12))
    head = ["data_t", "", "loop_", *(f"_l{i} #{i}" for i in range(width))]
    return "\n".join([*head, *(draw(st.sampled_from([" ", "\t "])).join(words) for words in rows)])


def _read_or_error(text):
    try:
        file = star.parse(text)
    except StarError as error:
        return str(error)
    return [(name, t.loop, t.comments, t.notes, list(t.rows())) for name, t in file.blocks], file.closing_comments


@settings(deadline=None, max_examples=300)
@given(_loops(), st.integers(1, 4))
def test_rows_read_together_are_those_read_one_by_one(text, together):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(star, "_LINES_TOGETHER", together)
        found = _read_or_error(text)
        patch.setattr(star._Parser, "_plain_rows", lambda *_: [])
        assert found == _read_or_error(text)


def test_rows_read_together_hide_no_mistake_and_keep_no_comment(monkeypatch):
    with pytest.raises(StarError, match=r"line 5: .* more values \(3\)"):
        star.parse("data_x\nloop_\n_a\n_b\n1 2 3\n4\n")  # as many values as two rows have
    monkeypatch.setattr(star, "_LINES_TOGETHER", 1)
    file = star.parse("data_x\nloop_\n_a\n_b\n# above\n1 2\n# between\n3 4\n\ndata_y\n_c 1\n")
    assert file["x"].strings("b") == ["2", "4"] and file["y"].comments == ()


def _real_files(shared: Path) -> list[Path]:
    found = sorted([*shared.glob("golden/**/*.star"), *shared.glob("data/**/*.star")])
    assert len(found) > 200
    return [path for path in found if path.stat().st_size < 1_000_000]


@pytest.mark.req("E1")
def test_real_files_round_trip(shared):
    for path in _real_files(shared):
        if path.name == "no_input.star":  # damaged by hand: RELION refuses it too
            continue
        file = star.read(path)
        again = star.parse(star.dumps(file))
        assert again.blocks == file.blocks, path
        assert [t.comments for _, t in again.blocks] == [t.comments for _, t in file.blocks], path


def test_values_agree_with_the_starfile_package(shared):
    """An independent reader; it turns `001` into 1, so what it made a number is compared as a number."""
    compared = 0
    for path in sorted(shared.glob("golden/projects/em-testdata-relion4/**/*.star")):
        theirs = starfile.read(path, always_dict=True)
        for name, table in star.read(path).items():
            if name not in theirs or not len(table):
                continue
            frame = theirs[name]
            for label in table.labels:
                column = [frame[label]] if isinstance(frame, dict) else list(frame[label])
                assert len(column) == len(table)
                for ours, other in zip(table.strings(label), column, strict=True):
                    compared += 1
                    if isinstance(other, str):
                        assert ours == other, (path, name, label)
                    elif other == other:
                        assert float(ours) == pytest.approx(float(other)), (path, name, label)
    assert compared > 10_000


@pytest.mark.req("E1")
def test_debians_relion_reads_what_we_write(tmp_path, debian_relion):
    optics = Table(
        {
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnMicrographPixelSize": [1.0],
        }
    )
    table = Table(
        {
            "rlnMicrographName": ["plain.mrc", "with space.mrc", "quo\"te' x.mrc"],
            "rlnCoordinateX": [1.25, -3.5, 123456.0],
            "rlnClassNumber": [1, 2, 3],
            "rlnOpticsGroup": [1, 1, 1],
            "myOwnLabel": ["001", "None", "<NA>"],
        }
    )
    star.write(tmp_path / "in.star", {"optics": optics, "micrographs": table})
    done = subprocess.run(
        [
            debian_relion("relion_star_handler"),
            *["--i", "in.star", "--o", "out.star", "--remove_column", "rlnClassNumber"],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    theirs = star.read(tmp_path / "out.star")
    table.remove("rlnClassNumber")
    assert {label: theirs["micrographs"].strings(label) for label in theirs["micrographs"].labels} == {
        label: table.strings(label) for label in table.labels
    }
    assert theirs["optics"] == optics


@pytest.mark.req("E1")
def test_files_of_relion_5_come_back_byte_for_byte(shared):
    project = shared / "data/real/bgal-10204-relion5-project"
    checked = 0
    for path in [project / "Extract/job009/particles.star", *project.glob("Import/job*/movies.star")]:
        assert star.dumps(star.read(path)) == path.read_text()
        checked += 1
    assert checked >= 2


# --------------------------------------------------------------------------- writing to disc


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "x.star"
    star.write(path, {"x": Table({"a": ["old"]})})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("the disc is gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="gone"):
        star.write(path, {"x": Table({"a": ["new"]})})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.star"]


def test_a_link_is_replaced_and_a_device_refused(tmp_path):
    target = tmp_path / "elsewhere.txt"
    target.write_text("mine")
    (tmp_path / "x.star").symlink_to(target)
    star.write(tmp_path / "x.star", {"x": Table({"a": ["1"]})})
    assert target.read_text() == "mine"
    assert not (tmp_path / "x.star").is_symlink()
    with pytest.raises(OSError, match="regular file"):
        star.write("/dev/null", {"x": Table({"a": ["1"]})})


def test_permissions_stay(tmp_path):
    path = tmp_path / "x.star"
    star.write(path, {})
    path.chmod(0o640)
    star.write(path, {"x": Table({"a": ["1"]})})
    assert path.stat().st_mode & 0o777 == 0o640


# --------------------------------------------------------------------------- cost


def test_the_import_is_cheap():
    code = (
        "import sys, relion_py.compute.io.star; "
        "print([m for m in ('numpy', 'pandas', 'starfile', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_hundred_thousand_rows(tmp_path):
    rng = np.random.default_rng(0)
    rows = 100_000
    numbers = Table({"x": rng.normal(size=rows) * 1000}).strings("x")
    names = [f"{i:06d}@Extract/job009/mic{i // 100:05d}.mrcs" for i in range(rows)]
    columns = {f"rlnX{i}": numbers for i in range(25)} | {f"rlnName{i}": names for i in range(5)}
    table = Table(columns)
    start = time.process_time()
    star.write(tmp_path / "big.star", {"particles": table})
    written = time.process_time()
    again = star.read(tmp_path / "big.star")["particles"]
    read = time.process_time()
    assert again == table
    # 0.6 s and 0.6 s where nothing else runs; the bounds leave room for a busy machine
    assert written - start < 4.0
    assert read - written < 4.0
