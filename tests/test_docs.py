"""What the documentation says is so: links lead somewhere, tables of programs and job types are complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from relion_py.jobs import registry

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])
SYSTEM_PROGRAMS = {"rm", "touch", "ln"}


def table(text: str, heading: str) -> list[list[str]]:
    """Rows of the Markdown table whose first heading cell is this."""
    lines = text[text.index(f"| {heading} |") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """Paths in backticks that begin with a directory of the checkout."""
    names = re.findall(r"`((?:relion_py|tests|scripts|docs|benchmarks)/[\w./-]+)`", page.read_text())
    names += re.findall(r"(?:bash|python) ((?:scripts|benchmarks|tests)/[\w./-]+)", page.read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_program_is_in_the_readme():
    named = {row[0].strip("`") for row in table(README, "program")}
    assert named == {name for name in PROJECT["scripts"] if not name.endswith("_mpi")}
    parallel = {name.removesuffix("_mpi") for name in PROJECT["scripts"] if name.endswith("_mpi")}
    paragraph = next(text for text in README.split("\n\n") if "exist as `..._mpi` too" in text)
    assert set(re.findall(r"`(relion_\w+)`", paragraph)) == parallel


def test_the_readme_says_which_jobs_run_with_this_package_alone():
    """Counted from the programs that each job type's commands name."""
    here = set(PROJECT["scripts"])
    whole, partly = {"External"}, set()
    for spec in registry.all_specs():
        programs = {command.program for command in spec.commands if isinstance(command.program, str)}
        programs -= SYSTEM_PROGRAMS
        if programs and programs <= here:
            whole.add(spec.browser_label)
        elif programs & here:
            partly.add(spec.browser_label)
    rows = table(README, "job type")
    assert {label for label, told in rows if told.startswith("yes")} == whole
    assert {label for label, told in rows if not told.startswith("yes")} == partly | {"all others"}
    assert f"All {len(registry.all_specs())} job types" in README


def test_extras_in_the_readme_exist():
    extras = set(PROJECT["optional-dependencies"])
    named = {name for row in table(README, "extra") for name in re.findall(r"`(\w+)`", row[0])}
    assert named == extras


def test_the_changelog_begins_with_this_version():
    import relion_py

    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None and first.group(1) == relion_py.__version__


@pytest.mark.parametrize("package", ["jobs", "pipeline", "compute"])
def test_modules_named_in_the_architecture_exist(package):
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.split(f"\n## {package}:")[1].split("\n## ")[0]
    # the names that begin a line or a column, not those of programs' output files
    names = re.findall(r"(?:^|\s)`((?:[\w]+/)*\w+\.py)`", section)
    assert names
    missing = [name for name in names if not (ROOT / "relion_py" / package / name).exists()]
    missing = [name for name in missing if not (ROOT / name).exists()]
    assert missing == []
