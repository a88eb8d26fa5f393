"""RELION's rules for arguments (args.cpp), and what a person sees."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relion_py.compute.cli.parser import Flag, parse, usage, value_of
from relion_py.compute.errors import UserError

FLAGS = (
    Flag("--i", required=True, help="input"),
    Flag("--angpix", "value", "1.0", "pixel size, 100% yours", "Optics"),
    Flag("--iter", "value", "25"),
    Flag("--zero_mask", "flag"),
    Flag("--gpu", "optional", "default"),
)


def test_defaults_and_given():
    args = parse(FLAGS, ["--i", "x.star"])
    assert args.text("--i") == "x.star"
    assert args.number("--angpix") == 1.0
    assert args.integer("--iter") == 25
    assert args.values["--zero_mask"] is False
    assert args.given == {"--i"}
    assert set(args.values) == {flag.name for flag in FLAGS} | {"--pipeline_control"}


@pytest.mark.parametrize(
    "value",
    ["-h", "--help", "--version", "-1", "-0.5e-3", "--x", "-", "", "two words", "a=b", "--angpix=3", "%s"],
)
def test_the_next_word_is_the_value_whatever_it_is(value):
    assert parse(FLAGS, ["--i", value, "--zero_mask"]).text("--i") == value


def test_an_option_in_the_place_of_a_value_counts_as_one_too():
    """A job whose field is empty says `--angpix  --i x.star`, which the reference's programs take."""
    args = parse(FLAGS, ["--angpix", "--i", "x.star", "--iter", "--zero_mask"])
    assert args.text("--i") == "x.star" and args.on("--zero_mask")
    assert args.given == {"--angpix", "--i", "--iter", "--zero_mask"}
    with pytest.raises(UserError, match='--angpix needs a number, not "--i"'):
        args.number("--angpix")


@settings(deadline=None)
@given(st.text(max_size=20).filter(lambda text: text not in {flag.name for flag in FLAGS}))
def test_any_text_is_a_value(value):
    assert parse(FLAGS, ["--i", value]).text("--i") == value


def test_the_last_one_wins_with_a_warning(capsys):
    assert parse(FLAGS, ["--i", "a", "--i", "b"]).text("--i") == "b"
    assert "--i was given more than once" in capsys.readouterr().err


def test_unknown_options_are_warned_about_and_ignored(capsys):
    args = parse(FLAGS, ["--i", "a", "--bogus", "3", "--zero_mask", "stray"])
    assert args.values["--zero_mask"] is True
    err = capsys.readouterr().err
    assert '"--bogus" is not an option' in err
    assert '"stray"' in err
    assert '"3"' not in err


def test_names_are_not_abbreviated(capsys):
    assert parse(FLAGS, ["--i", "a", "--zero"]).values["--zero_mask"] is False
    assert '"--zero"' in capsys.readouterr().err


def test_an_optional_value():
    assert parse(FLAGS, ["--i", "a", "--gpu", "0:1"]).text("--gpu") == "0:1"
    assert parse(FLAGS, ["--i", "a", "--gpu", ""]).text("--gpu") == ""
    args = parse(FLAGS, ["--i", "a", "--gpu", "--zero_mask"])
    assert args.text("--gpu") == "default"
    assert args.on("--gpu")
    assert args.on("--zero_mask")
    assert not parse(FLAGS, ["--i", "a"]).on("--gpu")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--iter", "3"], "--i must be given"),
        (["--i"], "--i needs a value"),
    ],
)
def test_mistakes_are_sentences(words, what):
    with pytest.raises(UserError, match=what):
        parse(FLAGS, words)


@pytest.mark.parametrize("text", ["abc", "", "nan", "inf", "1.5"])
def test_numbers_that_are_none(text):
    with pytest.raises(UserError, match=r"--iter needs a whole number|--iter needs a number"):
        parse(FLAGS, ["--i", "a", "--iter", text]).integer("--iter")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--i", "x", "--help"]])
def test_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(FLAGS, words, program="relion_x")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "usage: relion_x" in out
    assert "Optics:" in out
    assert "pixel size, 100% yours (default: 1.0)" in out


def test_version(capsys):
    with pytest.raises(SystemExit):
        parse(FLAGS, ["--version"])
    assert "relion_py version" in capsys.readouterr().out


def test_quiet_ranks_print_nothing(capsys):
    parse(FLAGS, ["--i", "a", "--bogus"], quiet=True)
    with pytest.raises(SystemExit):
        parse(FLAGS, [], quiet=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_command_line_can_be_repeated():
    words = ["--i", "two words.star", "--angpix", "-1"]
    assert parse(FLAGS, words).command_line == "--i 'two words.star' --angpix -1"


def test_value_of():
    assert value_of("--o", ["--o", "a", "--o", "b"]) == "b"
    assert value_of("--o", ["--o"]) == ""


@pytest.mark.parametrize("program", ["import_", "refine"])
def test_tables_have_the_references_options(shared, program):
    """Every option of the reference is in our table, with the same default and kind."""
    table = {
        flag.name: flag for flag in __import__(f"relion_py.compute.cli.options.{program}", fromlist=["FLAGS"]).FLAGS
    }
    reference = json.loads((shared / "reference/programs.json").read_text())
    for group in reference[f"relion_{program.strip('_')}"]["groups"].values():
        for option in group:
            flag = table.get(option["option"])
            assert flag is not None, option
            if option["kind"] == "value":
                assert flag.kind in ("value", "optional"), option
                assert flag.default == option["default"] or float(flag.default) == float(option["default"])
            else:
                assert flag.kind in ("flag", "optional"), option
    assert usage(table.values())


def test_every_import_command_of_the_reference_is_understood(shared):
    from relion_py.compute.cli.options.import_ import FLAGS as table

    seen = 0
    for line in (shared / "golden/commands.jsonl").read_text().splitlines():
        for command in json.loads(line).get("commands") or ():
            program, *words = shlex.split(command)
            # where the reference forgets quotes around "my dir/file.mrc" there is a stray word
            if program == "relion_import" and "dir/file.mrc" not in words:
                assert parse(table, words, quiet=True).warnings == ()
                seen += 1
    assert seen > 20


def test_tables_are_cheap_to_import():
    code = (
        "import sys, relion_py.compute.cli.options.import_, relion_py.compute.cli.options.refine; "
        "print([m for m in ('numpy', 'scipy', 'numba', 'pandas', 'mpi4py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
