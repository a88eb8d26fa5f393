"""Import and 3D auto-refine from the window, on particles that the package simulates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from window_driver import choose, click, wait_until, write

from relion_py.gui.progress import newest_model
from relion_py.pipeline.graph import Status
from relion_py.pipeline.project import Project

BOX, PIXEL = 32, 4.0


def own_program(name: str) -> Path:
    """The program of this package; skips where it is not installed."""
    path = Path(sys.executable).parent / name
    module = "relion_py.compute.cli.refine"
    if not path.exists() or importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} of this package is not installed")
    return path


@pytest.fixture
def particles_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with 100 simulated particles of D2 symmetry and their map as a reference."""
    own_program("relion_refine")
    simulate = pytest.importorskip("relion_py.compute.simulate")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    root = tmp_path / "project"
    Project.create(root)
    simulate.simulate_particles(
        root / "Simulated", n=100, box=BOX, angpix=PIXEL, symmetry="D2", snr=1.0, project_root=root
    )
    return root


@pytest.mark.timeout(600)
@pytest.mark.req("G9")
@pytest.mark.req("G11")
def test_refinement_from_the_window(qtbot, open_window, particles_project: Path) -> None:
    root = particles_project
    window = open_window(root)
    form = choose(qtbot, window, "3D auto-refine")
    write(qtbot, form, "fn_img", "Simulated/particles.star")
    write(qtbot, form, "fn_ref", "Simulated/reference.mrc")
    form.fields["sym_name"].set_value("D2")
    form.fields["ini_high"].set_value("40")
    form.fields["particle_diameter"].set_value(f"{0.8 * BOX * PIXEL:.0f}")
    form.fields["nr_threads"].set_value("2")
    click(qtbot, window.control.run_button)
    wait_until(qtbot, lambda: bool(window.current_job))
    name = window.current_job
    assert name == "Refine3D/job001/"
    assert name in window.lists.running.names()
    wait_until(qtbot, lambda: window.stdout_view.toPlainText().strip() != "", timeout=120_000)
    wait_until(qtbot, lambda: newest_model(root / name) is not None, timeout=300_000)
    ended = (Status.SUCCEEDED, Status.FAILED, Status.ABORTED)
    wait_until(qtbot, lambda: window.session.snapshot.graph.processes[name].status in ended, timeout=500_000)
    assert window.session.snapshot.graph.processes[name].status == Status.SUCCEEDED, window.stderr_view.toPlainText()
    assert name in window.lists.finished.names() and name not in window.lists.running.names()
    assert (root / name / "RELION_JOB_EXIT_SUCCESS").exists()
    wait_until(
        qtbot,
        lambda: (
            "out: run_class001.mrc" in [window.display_choice.itemText(i) for i in range(window.display_choice.count())]
        ),
    )
