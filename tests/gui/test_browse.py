"""Browse lists only the nodes of this project that fit, and falls back to any file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog
from window_driver import choose, click, press, wait_until

from relion_py.gui.browse import NodeDialog, matching_nodes, path_in_project
from relion_py.jobs import registry
from relion_py.pipeline.graph import Graph, Node, Process, Status


def node_dialog(qtbot, window) -> NodeDialog:
    wait_until(qtbot, lambda: any(d.isVisible() for d in window.findChildren(NodeDialog)))
    return next(d for d in window.findChildren(NodeDialog) if d.isVisible())


@pytest.mark.req("G6")
@pytest.mark.req("X1")
def test_only_matching_nodes_are_listed(qtbot, window) -> None:
    form = choose(qtbot, window, "External")
    click(qtbot, form.fields["in_mic"].browse_button)
    dialog = node_dialog(qtbot, window)
    assert dialog.paths() == ["Import/job001/micrographs.star"]
    assert dialog.proxy.index(0, 0).data() == "Import/mics/micrographs.star", "the alias is what people know"
    press(qtbot, dialog, "Open")
    assert form.values()["in_mic"] == "Import/job001/micrographs.star"
    click(qtbot, form.fields["in_3dref"].browse_button)
    dialog = node_dialog(qtbot, window)
    assert dialog.paths() == ["Import/job002/map.mrc"]
    qtbot.keyClicks(dialog.filter, "nothing like it")
    assert dialog.paths() == []
    dialog.filter.clear()
    rect = dialog.view.visualRect(dialog.proxy.index(0, 0))
    qtbot.mouseClick(dialog.view.viewport(), Qt.MouseButton.LeftButton, pos=rect.center())
    qtbot.mouseDClick(dialog.view.viewport(), Qt.MouseButton.LeftButton, pos=rect.center())
    wait_until(qtbot, lambda: form.values()["in_3dref"] == "Import/job002/map.mrc")
    click(qtbot, form.fields["in_mask"].browse_button)
    dialog = node_dialog(qtbot, window)
    assert dialog.paths() == []
    assert not dialog.open_button.isEnabled()
    dialog.reject()


@pytest.mark.req("G6")
def test_any_file_falls_back_to_the_file_system(qtbot, window, project_root: Path) -> None:
    form = choose(qtbot, window, "External")
    click(qtbot, form.fields["in_mask"].browse_button)
    click(qtbot, node_dialog(qtbot, window).any_file_button)
    wait_until(qtbot, lambda: bool(window.findChildren(QFileDialog)))
    chooser = window.findChildren(QFileDialog)[0]
    chooser.fileSelected.emit(str(project_root / "Import/job002/map.mrc"))
    assert form.values()["in_mask"] == "Import/job002/map.mrc"
    chooser.close()


def test_half_maps_are_found_by_type_and_name() -> None:
    graph = Graph()
    for number in (3, 4):
        name = f"Refine3D/job{number:03d}/"
        graph.add_process(Process(name, "", "relion.refine3d", Status.SUCCEEDED))
        for file, kind in (("run_half1_class001_unfil.mrc", "halfmap"), ("run_class001.mrc", "relion")):
            graph.add_node(Node(name + file, f"DensityMap.mrc.{kind}"))
            graph.add_output(name, name + file)
    reference = registry.by_label("relion.refine3d").options["fn_ref"]
    found = [node.path for node in matching_nodes(graph, reference)]
    assert found[0].startswith("Refine3D/job004/"), "the newest job comes first"
    assert "Refine3D/job003/run_class001.mrc" in found


def test_paths_are_relative_inside_the_project_only(tmp_path: Path) -> None:
    assert path_in_project(tmp_path, str(tmp_path / "Movies/a.mrc")) == "Movies/a.mrc"
    assert path_in_project(tmp_path, "/elsewhere/a.mrc") == "/elsewhere/a.mrc"
