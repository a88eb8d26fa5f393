"""Job types of other packages, and that loading ours is quick and needs no big library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_cost import import_cost

from relion_py.jobs import registry
from relion_py.jobs.files import NamedFiles

PACKAGE = """
from relion_py.jobs.common import empty_input, running
from relion_py.jobs.spec import Arg, Command, JobSpec, Output, Page, node, output, slider

MAP = node("fn_in", "Map:", "DensityMap.mrc", help="The map.")
INPUT = Page("I/O", (MAP, slider("n", "Times:", "2", 1, 9, 1)))
ARGS = (Arg("--i", "fn_in", is_input=True), Arg("--o", output("out.mrc")), Arg("-n", "n"))
SPEC = JobSpec(
    type_label="acme.sharpen",
    type_number=1001,
    directory="AcmeSharpen",
    browser_label="Sharpen (Acme)",
    hidden_file=".gui_acmesharpenjob.star",
    pages=(INPUT, running(mpi=False, threads=True)),
    commands=(Command("acme_sharpen", ARGS),),
    outputs=(Output("out.mrc", "DensityMap.mrc.acme"),),
    refusals=(empty_input("fn_in", "Give a map."),),
)
TAKEN = JobSpec("relion.import", 0, "Import", "Import", ".x", (INPUT,), ())
NOTHING = 3
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution "acme" with a good job type and three that are no good."""
    (tmp_path / "acme_jobs.py").write_text(PACKAGE)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[relion_py.jobs]\nsharpen = acme_jobs:SPEC\ntaken = acme_jobs:TAKEN\n"
        "nothing = acme_jobs:NOTHING\nbroken = acme_missing:SPEC\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.reload_third_party()
    yield
    monkeypatch.undo()
    registry.reload_third_party()
    sys.modules.pop("acme_jobs", None)


def test_another_package_adds_a_job_type(acme: None) -> None:
    spec = registry.all_specs()[-1]
    assert spec is registry.by_label("acme.sharpen") is registry.by_number(1001)
    assert spec.directory == "AcmeSharpen" and len(registry.all_specs()) == 23
    job = spec.build({"fn_in": "a.mrc"}, "AcmeSharpen/job003/", files=NamedFiles())
    assert job.commands == (("acme_sharpen", "--i", "a.mrc", "--o", "AcmeSharpen/job003/out.mrc", "-n", "2"),)
    assert [(n.path, n.type) for n in job.output_nodes] == [("AcmeSharpen/job003/out.mrc", "DensityMap.mrc.acme")]
    assert spec.build({}, files=NamedFiles()).refusal == "Give a map."


def test_bad_job_types_of_others_are_told_and_left_out(acme: None) -> None:
    told = registry.complaints()
    assert len(told) == 3
    for name in ("broken", "nothing", "taken"):
        assert any(f"'{name}'" in sentence for sentence in told)
    assert registry.by_label("relion.import").browser_label == "Import"


def test_without_others_nothing_is_told() -> None:
    assert registry.complaints() == () and len(registry.all_specs()) == 22


def test_loading_needs_no_big_library() -> None:
    script = (
        "import sys; from relion_py.jobs import registry; registry.all_specs();"
        "big = {'numpy', 'scipy', 'PySide6', 'numba', 'mpi4py', 'pandas', 'subprocess'} & set(sys.modules);"
        "sys.exit(str(big) if big else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_loading_is_quick() -> None:
    assert import_cost("relion_py.jobs.registry")[0] < 18_000


def test_the_documented_example_is_true() -> None:
    text = (Path(__file__).parents[2] / "docs" / "adding-a-job-type.md").read_text()
    names: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)  # our own documentation
    spec = names["SPEC"]
    assert isinstance(spec, registry.JobSpec)
    job = spec.build({"fn_in": "a.mrc", "do_mask": "Yes", "fn_mask": "m.mrc"}, "AcmeFilter/job001/")
    assert " ".join(job.commands[0]) == (
        "acme_filter --i a.mrc --o AcmeFilter/job001/filtered.mrc --mask m.mrc --resolution 10 --j 1"
    )
    assert [node.type for node in job.input_nodes] == ["DensityMap.mrc", "Mask3D.mrc"]
    assert spec.build({}, "AcmeFilter/job001/").refusal == "Give the map to filter."
