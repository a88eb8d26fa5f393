"""The parameter panel: every option of every job type, its dependences, its problems and its help."""

from __future__ import annotations

import subprocess

import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication, QComboBox, QFrame, QLineEdit
from window_driver import choose, click, wait_until, write

from relion_py.gui.fields import Field, NumberSlider, YesNoSwitch, expand_braces, name_filters
from relion_py.gui.job_form import JobForm
from relion_py.jobs import registry
from relion_py.jobs.spec import Problem

ALL = [spec.type_label for spec in registry.all_specs()]


@pytest.mark.req("G6")
@pytest.mark.parametrize("label", ALL)
def test_every_option_has_an_entry_of_its_kind(qtbot, label: str) -> None:
    spec = registry.by_label(label)
    form = JobForm(spec)
    qtbot.addWidget(form)
    kinds = {"yes_no": YesNoSwitch, "slider": NumberSlider, "choice": QComboBox}
    assert form.count() == len(spec.tabs)
    assert {key for tab in spec.tabs for key in tab.options} == set(form.fields)
    for key, field in form.fields.items():
        option = spec.options[key]
        assert isinstance(field.editor, kinds.get(option.kind, QLineEdit))
        assert (field.browse_button is not None) == (option.kind in ("file", "node"))
        assert (field.help_button is not None) == bool(option.help)
    values = spec.defaults()
    form.set_values(values, False)
    assert form.values() == values, "what is shown is what a job.star would hold"


@pytest.mark.req("G8")
@pytest.mark.parametrize("label", ALL)
def test_continuation_greys_what_may_not_change(qtbot, label: str) -> None:
    spec = registry.by_label(label)
    form = JobForm(spec)
    qtbot.addWidget(form)
    for is_continue in (False, True):
        form.set_continue(is_continue)
        for key, field in form.fields.items():
            assert field.is_enabled() == spec.is_active(key, form.values(), is_continue), key


@pytest.mark.req("G6")
def test_a_switch_enables_its_group(qtbot) -> None:
    form = JobForm(registry.by_label("relion.refine3d"))
    qtbot.addWidget(form)
    form.show()
    tube = form.fields["helical_tube_outer_diameter"]
    assert not tube.is_enabled()
    form.setCurrentIndex([tab.name for tab in form.spec.tabs].index("Helix"))
    click(qtbot, form.fields["do_helix"].editor.yes)
    assert form.values()["do_helix"] == "Yes"
    assert tube.is_enabled()
    click(qtbot, form.fields["do_helix"].editor.no)
    assert not tube.is_enabled()


def test_slider_and_number_follow_each_other_and_text_may_leave_the_range(qtbot) -> None:
    option = next(o for o in registry.by_label("relion.refine3d").options.values() if o.kind == "slider")
    form = JobForm(registry.by_label("relion.refine3d"))
    qtbot.addWidget(form)
    field = form.fields[option.key]
    number = field.editor
    number.slider.setValue(number.slider.maximum())
    assert float(field.value()) == pytest.approx(option.maximum, abs=option.step)
    beyond = f"{option.maximum * 10:g}"
    field.set_value(beyond)
    assert field.value() == beyond
    assert number.slider.value() == number.slider.maximum()
    field.set_value("not a number")
    assert field.value() == "not a number"


def test_the_wheel_over_an_entry_scrolls_the_tab_and_changes_nothing(qtbot) -> None:
    form = JobForm(registry.by_label("relion.refine3d"))
    qtbot.addWidget(form)
    form.show()
    before = form.values()
    for field in form.fields.values():
        target = field.editor.slider if isinstance(field.editor, NumberSlider) else field.editor
        if isinstance(field.editor, NumberSlider | QComboBox):
            event = QWheelEvent(
                QPointF(5, 5),
                QPointF(5, 5),
                QPointF(0, -120).toPoint(),
                QPointF(0, -120).toPoint(),
                Qt.MouseButton.NoButton,
                Qt.KeyboardModifier.NoModifier,
                Qt.ScrollPhase.NoScrollPhase,
                False,
            )
            QApplication.sendEvent(target, event)
    assert form.values() == before


def test_unknown_choices_and_hidden_values_survive(qtbot) -> None:
    spec = registry.by_label("relion.refine3d")
    form = JobForm(spec)
    qtbot.addWidget(form)
    values = {**spec.defaults(), "sampling": "a step of a later release", "of_a_later_release": "42"}
    form.set_values(values, False)
    assert form.values() == values


def test_problems_show_only_where_one_typed_until_everything_is_demanded(qtbot) -> None:
    form = JobForm(registry.by_label("relion.external"))
    qtbot.addWidget(form)
    problems = [
        Problem("fn_exe", "Name the executable."),
        Problem("in_mic", "No such file."),
        Problem("", "Else."),
    ]
    form.fields["in_mic"].editor.setText("x")
    assert form.show_problems(problems) == [problems[2]]
    assert form.fields["in_mic"].problem == "No such file."
    assert form.fields["fn_exe"].problem == ""
    form.demand_everything()
    form.show_problems(problems)
    assert form.fields["fn_exe"].problem == "Name the executable."
    form.show_problems([])
    assert form.fields["fn_exe"].problem == "" and not form.fields["fn_exe"].problem_label.isVisibleTo(form)


def test_help_opens_beside_its_button(qtbot) -> None:
    form = JobForm(registry.by_label("relion.external"))
    qtbot.addWidget(form)
    form.show()
    button = form.fields["fn_exe"].help_button
    click(qtbot, button)
    popup = button.findChild(QFrame, "helpPopup")
    assert popup.isVisible()
    texts = [label.text() for label in popup.findChildren(type(form.fields["fn_exe"].label))]
    assert form.spec.options["fn_exe"].help in texts
    popup.close()


def test_file_patterns_become_name_filters() -> None:
    assert expand_braces("*.{spi,mrc}") == ["*.spi", "*.mrc"]
    assert name_filters("Image Files (*.{spi,vol,mrc})") == [
        "Image Files (*.spi *.vol *.mrc)",
        "All files (*)",
    ]
    assert name_filters("STAR files (*.star) \t Image stacks (*.{spi,mrcs})")[1] == "Image stacks (*.spi *.mrcs)"
    assert name_filters("undefined") == ["All files (*)"]
    assert name_filters("") == ["All files (*)"]


@pytest.mark.req("G6")
def test_a_problem_appears_at_the_entry_while_one_types(qtbot, window) -> None:
    form = choose(qtbot, window, "External")
    field: Field = form.fields["in_mic"]
    write(qtbot, form, "in_mic", "no/such.star")
    wait_until(qtbot, lambda: field.problem != "")
    assert field.problem_label.isVisible()
    assert "no/such.star" in field.problem
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    wait_until(qtbot, lambda: field.problem == "")


@pytest.mark.req("G7")
def test_run_says_what_is_missing_and_starts_nothing(qtbot, window, project_root) -> None:
    form = choose(qtbot, window, "External")
    form.setCurrentIndex(1)
    click(qtbot, window.control.run_button)
    wait_until(qtbot, window.control.banner.isVisible)
    assert window.control.banner.text.text()
    assert form.currentIndex() == 0, "the first entry that is wrong is brought into view"
    assert form.fields["fn_exe"].problem
    assert not (project_root / "External").exists()
    assert window.current_job == ""
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    wait_until(qtbot, lambda: not window.control.banner.isVisible())


@pytest.mark.req("X3")
@pytest.mark.req("G7")
def test_check_command_shows_the_exact_command_and_runs_nothing(qtbot, window, project_root) -> None:
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    write(qtbot, form, "param1_label", "threshold")
    write(qtbot, form, "param1_value", "0.1")
    write(qtbot, form, "param2_label", "denoise_first")
    click(qtbot, window.control.check_button)
    wait_until(qtbot, lambda: hasattr(window.control, "command_dialog") and window.control.command_dialog.isVisible())
    dialog = window.control.command_dialog
    command = (
        "./pick.sh --o External/job003/ --in_mics Import/job001/micrographs.star --threshold 0.1 --denoise_first --j 1"
    )
    read = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + dialog.text.toPlainText()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.split() == command.split(), "a shell reads it as that command"
    click(qtbot, dialog.copy_button)
    assert QApplication.clipboard().text() == dialog.text.toPlainText()
    dialog.close()
    assert not (project_root / "External").exists()
