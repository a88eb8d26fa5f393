"""Input lists, and names of outputs, which must stay below the job directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.compute.ctf.listing import read_micrographs
from relion_py.compute.errors import UserError
from relion_py.compute.io.outputs import output_root

GIVEN = {"--CS": 2.7, "--HT": 300.0, "--AmpCnst": 0.1, "--angpix": 1.5}
MISSING = dict.fromkeys(GIVEN, -1.0)


@pytest.mark.parametrize(
    ("source", "root"),
    [
        ("MotionCorr/job002/Movies/a_PS.mrc", "CtfFind/job003/Movies/a_PS"),
        ("Micrographs/a.b.mrc", "CtfFind/job003/Micrographs/a.b"),
        ("/data/raw/a.mrc", "CtfFind/job003/data/raw/a"),
        ("deep/External/job1234/x/a.mrc", "CtfFind/job003/x/a"),
    ],
)
def test_outputs_lie_where_relion_puts_them(source: str, root: str) -> None:
    assert output_root("CtfFind/job003/", source) == root


@pytest.mark.parametrize("source", ["../a.mrc", "a/../../b.mrc", "", "a\nb.mrc", "job001/"])
def test_names_that_lead_out_are_refused(source: str) -> None:
    with pytest.raises(UserError, match="no name for a micrograph"):
        output_root("CtfFind/job003/", source)


@given(st.text(st.sampled_from("ab./j o1\n"), max_size=20))
def test_no_name_leads_out(source: str) -> None:
    try:
        root = output_root("Out/", source)
    except UserError:
        return
    assert Path("/x", root).resolve().is_relative_to("/x/Out")


def write_list(path: Path, columns: str, row: str, optics: str = "1 300 2.7 0.1 1.5") -> str:
    labels = "rlnOpticsGroup rlnVoltage rlnSphericalAberration rlnAmplitudeContrast rlnMicrographPixelSize"
    head = "data_optics\nloop_\n" + "".join(f"_{label}\n" for label in labels.split()) + f"{optics}\n\n"
    body = "data_micrographs\nloop_\n" + "".join(f"_{label}\n" for label in columns.split()) + f"{row}\n"
    path.write_text(head + body)
    return str(path)


def test_a_list_is_read(tmp_path: Path) -> None:
    path = write_list(tmp_path / "m.star", "rlnMicrographName rlnCtfPowerSpectrum rlnOpticsGroup", "a.mrc a_PS.mrc 1")
    entry = read_micrographs(path, MISSING, "rlnCtfPowerSpectrum", "--use_given_ps").entries[0]
    assert (entry.micrograph, entry.source, entry.pixel_size) == ("a.mrc", "a_PS.mrc", 1.5)
    assert (entry.microscope.voltage, entry.microscope.cs, entry.microscope.q0) == (300, 2.7, 0.1)
    with pytest.raises(UserError, match="--use_noDW needs the column _rlnMicrographNameNoDW"):
        read_micrographs(path, MISSING, "rlnMicrographNameNoDW", "--use_noDW")


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    path = write_list(tmp_path / "m.star", "rlnMicrographName rlnOpticsGroup", "a.mrc 2")
    with pytest.raises(UserError, match=r"optics group 2 of a\.mrc"):
        read_micrographs(path, MISSING)
    path = write_list(tmp_path / "m.star", "rlnMicrographName rlnOpticsGroup", "a.mrc 1\na.tif 1")
    with pytest.raises(UserError, match="outputs of the same name"):
        read_micrographs(path, MISSING)
    path = write_list(tmp_path / "m.star", "rlnMicrographName rlnOpticsGroup", "a.mrc 1", "1 0 2.7 0.1 1.5")
    with pytest.raises(UserError, match="must be positive"):
        read_micrographs(path, MISSING)
    path = write_list(tmp_path / "m.star", "rlnMicrographMovieName rlnOpticsGroup", "a.tif 1")
    with pytest.raises(UserError, match="no column _rlnMicrographName"):
        read_micrographs(path, MISSING)


def test_a_pattern_needs_the_microscope(tmp_path: Path) -> None:
    for name in ("b.mrc", "a.mrc"):
        (tmp_path / name).touch()
    pattern = str(tmp_path / "*.mrc")
    found = read_micrographs(pattern, GIVEN)
    assert [Path(entry.micrograph).name for entry in found.entries] == ["a.mrc", "b.mrc"]
    assert found.entries[0].microscope.cs == 2.7 and found.optics.value("rlnOpticsGroupName") == "opticsGroup1"
    with pytest.raises(UserError, match="does not tell the spherical aberration; give it with --CS"):
        read_micrographs(pattern, MISSING)
    with pytest.raises(UserError, match="no micrographs"):
        read_micrographs(str(tmp_path / "*.tif"), GIVEN)
