"""Conditions, numbers, words, sites and node types: the small parts of which job types are made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.jobs import nodes, quoting, registry
from relion_py.jobs.conditions import NotANumber, above, all_of, any_of, equals, filled, not_, on
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import read_mrc_header, star_job_values, star_row_count
from relion_py.jobs.numeric import format_number, is_number, parse_number, round_half_away, single

from .conftest import write_map


def test_conditions_say_what_they_mean() -> None:
    condition = all_of(on("a"), any_of(equals("b", "x"), not_(filled("c"))))
    assert str(condition) == "a is Yes and (b is x or c is empty)"
    assert condition.keys == {"a", "b", "c"}
    assert condition({"a": "Yes", "b": "x", "c": "full"}) and condition({"a": "Yes", "b": "", "c": ""})
    assert not condition({"a": "Yes", "b": "", "c": "full"}) and not condition({"a": "No", "b": "x"})


def test_number_conditions() -> None:
    assert above("n", 2)({"n": "2.5"}) and not above("n", 2)({"n": "2"})
    with pytest.raises(NotANumber) as caught:
        above("n")({"n": "C1"})
    assert caught.value.key == "n"
    assert not above("n", lenient=True)({"n": "C1"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", 1.5), (" 3", 3), ("0:1", 0), ("1e3x", 1000), (".5", 0.5), ("0x1A", 26), ("$$v", 0), ("-2.", -2)],
)
def test_numbers_are_read_as_c_reads_them(text: str, value: float) -> None:
    assert parse_number(text) == value


def test_words_are_no_numbers() -> None:
    assert parse_number("C1") is None and parse_number("-x") is None
    assert not is_number("0:1") and not is_number("inf") and is_number(" -1.5e-3 ")


def test_computed_numbers_look_like_printf() -> None:
    printed = {1.0: "1", 0.1: "0.1", 10 / 3: "3.33333", 1e-7: "1e-07", 1234567.0: "1.23457e+06", 0.0: "0"}
    assert {format_number(value): text for value, text in printed.items()} == {t: t for t in printed.values()}
    assert [round_half_away(x) for x in (0.5, 1.5, -0.5, -1.4)] == [1, 2, -1, -1]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_printed_numbers_read_back(value: float) -> None:
    back = parse_number(format_number(value))
    assert back is not None and math.isclose(back, single(value), rel_tol=1e-5, abs_tol=1e-45)


@given(st.lists(st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), max_size=6))
def test_displayed_commands_read_back(command: list[str]) -> None:
    assert quoting.words(quoting.display(command)) == tuple(command)


def test_unbalanced_quotes_are_taken_literally() -> None:
    assert quoting.words("--a 'b") == ("--a", "'b") and not quoting.is_balanced("--a 'b")


def test_site_variables_become_defaults_and_limits() -> None:
    environ = {
        "RELION_QUEUE_USE": "yes",
        "RELION_QUEUE_NAME": "long",
        "RELION_QSUB_COMMAND": "bsub",
        "RELION_QSUB_TEMPLATE": "/site/qsub.sh",
        "RELION_MINIMUM_DEDICATED": "24",
        "RELION_ALLOW_CHANGE_MINIMUM_DEDICATED": "0",
        "RELION_QSUB_NRMPI": "5",
        "RELION_QSUB_NRTHREADS": "8",
        "RELION_MPI_MAX": "128",
        "RELION_THREAD_MAX": "32",
        "RELION_SCRATCH_DIR": "/scratch",
        "RELION_CTFFIND_EXECUTABLE": "/opt/ctffind",
        "RELION_MOTIONCOR2_EXECUTABLE": "/opt/mc2",
        "RELION_RESMAP_EXECUTABLE": "/opt/resmap",
        "RELION_QSUB_EXTRA_COUNT": "3",
        "RELION_QSUB_EXTRA1": "Hours:",
        "RELION_QSUB_EXTRA1_DEFAULT": "12",
        "RELION_QSUB_EXTRA3": "Account:",
        "RELION_QSUB_EXTRA3_HELP": "Who pays.",
    }
    env = SiteEnvironment.from_environ(environ)
    spec = registry.by_label("relion.refine3d").for_site(env)
    values = spec.defaults(env)
    expected = {"do_queue": "Yes", "queuename": "long", "qsub": "bsub", "qsubscript": "/site/qsub.sh"}
    expected |= {"min_dedicated": "24", "nr_mpi": "5", "nr_threads": "8", "scratch_dir": "/scratch"}
    expected |= {"qsub_extra1": "12", "qsub_extra3": ""}
    assert expected.items() <= values.items()
    assert (spec.options["nr_mpi"].maximum, spec.options["nr_threads"].maximum) == (128, 32)
    assert spec.options["min_dedicated"].on_continue == "never"
    assert spec.options["qsub_extra3"].help == "Who pays." and "qsub_extra2" not in spec.options
    running = spec.tabs[-1].options
    assert running.index("qsub_extra1") == running.index("qsubscript") - 2
    for label, key, value in (
        ("relion.ctffind", "fn_ctffind_exe", "/opt/ctffind"),
        ("relion.motioncorr", "fn_motioncor2_exe", "/opt/mc2"),
        ("relion.localres", "fn_resmap", "/opt/resmap"),
    ):
        assert registry.by_label(label).defaults(env)[key] == value


def test_site_numbers_that_are_none_are_passed_over() -> None:
    assert SiteEnvironment.from_environ({"RELION_MPI_MAX": "many"}) == SiteEnvironment()


@pytest.mark.req("G8")
def test_entries_are_active_as_the_reference_has_them() -> None:
    spec = registry.by_label("relion.class2d")
    values = spec.defaults()
    assert spec.is_active("fn_img", values, False) and not spec.is_active("fn_img", values, True)
    assert not spec.is_active("fn_cont", values, False) and spec.is_active("fn_cont", values, True)
    assert not spec.is_active("gpu_ids", values, False)
    assert spec.is_active("gpu_ids", {**values, "use_gpu": "Yes"}, False)
    assert spec.is_active("gpu_ids", {**values, "use_gpu": "$$gpu"}, False)
    assert spec.is_active("scratch_dir", values, False)
    assert not spec.is_active("scratch_dir", {**values, "do_preread_images": "Yes"}, False)
    nested = registry.by_label("relion.autopick")
    on_both = {**nested.defaults(), "do_topaz_train": "Yes", "do_topaz_train_parts": "Yes"}
    assert nested.is_active("topaz_train_parts", on_both, False)
    assert not nested.is_active("topaz_train_parts", {**on_both, "do_topaz_train": "No"}, False)


@pytest.mark.req("J5")
def test_gentle_cleaning_never_says_more_than_harsh() -> None:
    for spec in registry.all_specs():
        whole = "*/" in spec.harsh.patterns
        for pattern in spec.gentle.patterns:
            assert pattern in spec.harsh.patterns or (whole and pattern.startswith("*/")), spec.type_label
        assert spec.harsh.iterations == spec.gentle.iterations
    # pipeliner.cpp, cleanupJob: these types have nothing to clean.
    for label in ("import", "manualpick", "select", "maskcreate", "joinstar", "localres"):
        spec = registry.by_label(f"relion.{label}")
        assert not spec.gentle.patterns and not spec.harsh.patterns


def test_every_job_type_has_something_to_show() -> None:
    without = {spec.type_label for spec in registry.all_specs() if not spec.display}
    assert without == {"relion.external", "modelangelo"}  # the one has its nodes, the other an atomic model


@pytest.mark.req("X4")
def test_node_types_of_all_releases() -> None:
    assert nodes.canonical("3") == nodes.PARTS
    assert nodes.canonical("MicrographsData.star.relion.ctf") == nodes.CTFFIND_MICS
    assert nodes.canonical("ProcessData.star.relion.optimiser.class2d") == nodes.CLASS2D_OPT
    assert nodes.canonical("SomethingElse.star") == "SomethingElse.star"


def test_browse_offers_what_fits() -> None:
    fits = [
        (nodes.REFINE3D_HALFMAP, nodes.HALFMAP),
        (nodes.HALFMAP, nodes.HALFMAP),
        (nodes.CLASS2D_PARTS, nodes.PARTS),
    ]
    fits += [(nodes.MASKCREATE_MASK, nodes.MASK), (nodes.REFINE3D_MAP, nodes.MAP), ("3", nodes.PARTS)]
    assert all(nodes.matches(have, want) for have, want in fits)
    wrong = [(nodes.REFINE3D_MAP, nodes.HALFMAP), (nodes.MASK, nodes.MAP), (nodes.MICS, nodes.MOVIES)]
    assert not any(nodes.matches(have, want) for have, want in wrong)


def test_old_and_deep_job_labels() -> None:
    assert registry.by_label("relion.import.movies").type_number == 0
    assert registry.by_label("Class2D") is registry.by_number(8)
    with pytest.raises(registry.JobTypeError, match="no job type 'relionx'"):
        registry.by_label("relionx")
    with pytest.raises(registry.JobTypeError):
        registry.by_number(6)


def test_star_rows_and_saved_forms() -> None:
    assert star_row_count("") == 0
    assert star_row_count("data_\n\nloop_\n_a #1\n1\n2\n# no\n\ndata_b\nloop_\n_c\n1\n2\n3\n") == 2
    assert star_row_count("data_x\n_a 1\n_b 2\n") == 1
    assert star_job_values('data_joboptions_values\n\nloop_\n_a #1\n_b #2\nk "a b"\nl ""\nm 3\n') == {
        "k": "a b",
        "l": "",
        "m": "3",
    }


def test_mrc_header(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", 8, 2.5)
    header = read_mrc_header(tmp_path / "a.mrc")
    assert header is not None and (header.nx, header.ny, header.nz, header.mode) == (8, 8, 8, 2)
    assert header.pixel_size == pytest.approx(2.5)
    (tmp_path / "b.mrc").write_bytes(b"short")
    assert read_mrc_header(tmp_path / "b.mrc") is None and read_mrc_header(tmp_path / "c.mrc") is None
