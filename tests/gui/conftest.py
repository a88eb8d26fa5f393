"""Windows without a screen, preferences of their own, and small real projects to open them on."""

from __future__ import annotations

import gc
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from window_driver import edit_pipeline

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

SCRIPT = """#!/bin/sh
# A picker as the manual describes it: --o DIRECTORY and whatever else the form asks for.
while [ $# -gt 0 ]; do
  case "$1" in --o) out="$2"; shift;; --seconds) seconds="$2"; shift;; --fail) fail=yes;; esac
  shift
done
echo "picking into $out"
echo "a warning of the picker" >&2
step=0
while [ "$step" -lt "$((${seconds:-0} * 10))" ]; do
  if [ -f "$out/RELION_JOB_ABORT_NOW" ]; then
    rm "$out/RELION_JOB_ABORT_NOW"; touch "$out/RELION_JOB_EXIT_ABORTED"; exit 1
  fi
  sleep 0.1; step=$((step + 1))
done
if [ -n "$fail" ]; then echo "nothing was picked" >&2; touch "$out/RELION_JOB_EXIT_FAILURE"; exit 1; fi
printf 'Import/job001/micrographs.star\\n' > "$out/coords_suffix_mine.star"
nodes="$out/RELION_OUTPUT_NODES.star"
printf 'data_output_nodes\\nloop_\\n_rlnPipeLineNodeName #1\\n_rlnPipeLineNodeType #2\\n' > "$nodes"
printf '%scoords_suffix_mine.star 2\\n' "$out" >> "$nodes"
echo "done picking"
touch "$out/RELION_JOB_EXIT_SUCCESS"
"""

MICROGRAPHS = """data_optics
loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 1.0 300 2.7 0.1

data_micrographs
loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
Micrographs/mic001.mrc 1
"""


@pytest.fixture(autouse=True)
def own_preferences(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the preferences of the person who runs it."""
    monkeypatch.setenv("RELION_PY_CONFIG_DIR", str(tmp_path_factory.mktemp("preferences")))


@pytest.fixture(autouse=True)
def garbage_is_collected_here() -> Iterator[None]:
    """No other thread destroys widgets of a test that is over (see relion_py/gui/collector.py)."""
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.fixture
def project_root(tmp_path: Path) -> Path:
    """A project directory with micrographs, a map and an executable script to choose from."""
    from relion_py.pipeline.graph import Node, Process, Status
    from relion_py.pipeline.project import Project

    root = tmp_path / "project"
    Project.create(root)
    (root / "Import/job001").mkdir(parents=True)
    (root / "Import/job001/micrographs.star").write_text(MICROGRAPHS)
    (root / "Import/job001/RELION_JOB_EXIT_SUCCESS").touch()
    (root / "Import/job002").mkdir()
    (root / "Import/job002/map.mrc").write_bytes(b"\0" * 2048)
    (root / "Import/job002/RELION_JOB_EXIT_SUCCESS").touch()
    with edit_pipeline(root) as graph:
        graph.add_process(Process("Import/job001/", "Import/mics/", "relion.import", Status.SUCCEEDED))
        graph.add_node(Node("Import/job001/micrographs.star", "MicrographGroupMetadata.star.relion"))
        graph.add_output("Import/job001/", "Import/job001/micrographs.star")
        graph.add_process(Process("Import/job002/", "", "relion.import", Status.SUCCEEDED))
        graph.add_node(Node("Import/job002/map.mrc", "DensityMap.mrc"))
        graph.add_output("Import/job002/", "Import/job002/map.mrc")
        graph.set_job_counter(3)
    script = root / "pick.sh"
    script.write_text(SCRIPT)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return root


@pytest.fixture
def open_window(qtbot, qapp) -> Iterator[Callable[[Path], object]]:
    """open_window(root) is the real window on that project, shown; closed when the test ends."""
    from relion_py.gui import app as application

    application.make_application("light")
    windows = []

    def opened(root: Path):
        window = application.open_window(root)
        assert window is not None
        qtbot.addWidget(window)
        windows.append(window)
        window.show()
        qtbot.waitExposed(window)
        return window

    yield opened
    for window in windows:
        window.close()
    deadline = time.monotonic() + 5
    while any(w.session._thread.is_alive() for w in windows) and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture
def window(open_window, project_root: Path):
    """The window on the small project."""
    return open_window(project_root)
