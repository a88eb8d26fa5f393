"""What an installation brings: programs that start, modules that import cleanly, a wheel with all files."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]
PACKAGE = ROOT / "relion_py"

# Modules with a main() that are started by module name, not by people.
INTERNAL_MAINS = {"relion_py.pipeline.supervise", "relion_py.gui.screenshots"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tracked_files() -> list[Path]:
    """The files of the checkout that git does not ignore."""
    words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", *words],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# ---- entry points -----------------------------------------------------------------------------------------

EXPLAIN = """
import contextlib, importlib, io, json, sys
answers = {}
for name, target in json.loads(sys.argv[1]).items():
    module, _, function = target.partition(":")
    for argument in ("--help", "--version"):
        out, err, code = io.StringIO(), io.StringIO(), 0
        sys.argv[:] = [name, argument]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = getattr(importlib.import_module(module), function)()
            except SystemExit as end:
                code = end.code
        answers[f"{name} {argument}"] = (code or 0, out.getvalue(), err.getvalue())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def explanations() -> dict[str, tuple[int, str, str]]:
    """ "program --help" -> status, stdout, stderr. One process asks all programs: they share what they import."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:relion_py", "-c", EXPLAIN, json.dumps(SCRIPTS)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_program_explains_itself(name, explanations):
    status, usage, err = explanations[f"{name} --help"]
    assert status == 0, err
    assert "usage:" in usage.lower()
    status, version, err = explanations[f"{name} --version"]
    assert status == 0, err
    assert importlib.import_module("relion_py").__version__ in version


def test_every_program_of_the_package_is_installed():
    """A module with a main() that nobody put among the console programs could not be started by its name."""
    mains = {
        module_name(path)
        for path in PACKAGE.rglob("*.py")
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body)
    }
    installed = {target.partition(":")[0] for target in SCRIPTS.values()}
    assert mains - INTERNAL_MAINS == installed


def test_programs_keep_their_names_for_mpi():
    """What a job's command names, `x` or `x_mpi`, must both exist."""
    for name in SCRIPTS:
        if name.endswith("_mpi"):
            assert SCRIPTS[name] == SCRIPTS[name.removesuffix("_mpi")]


# ---- imports ----------------------------------------------------------------------------------------------


def test_all_modules_import_with_warnings_as_errors():
    names = [module_name(path) for path in sorted(PACKAGE.rglob("*.py"))]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *names],
        capture_output=True, text=True, timeout=300, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_program_that_shows_no_window_loads_no_window_library():
    """On a cluster's nodes Qt and its system libraries may be missing."""
    code = (
        "import sys, relion_py.compute.cli.refine, relion_py.compute.refine.start, relion_py.pipeline.cli\n"
        "heavy = ('PySide6', 'pyqtgraph', 'matplotlib')\n"
        "print([name for name in sys.modules if name.split('.')[0] in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# ---- requirements -----------------------------------------------------------------------------------------


def imported_libraries() -> set[str]:
    """Top-level names of other people's libraries that the package imports anywhere."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"relion_py"}


def test_every_imported_library_is_required():
    """Each library that the code imports is named in pyproject.toml, as a requirement or in an extra."""
    distributions = {
        "PySide6": "pyside6-essentials",
        "skimage": "scikit-image",
        "OpenGL": "pyopengl",
        "cupy": "cupy-cuda12x",
    }
    required = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        required += extra
    named = {re.split(r"[\[<>=;! ]", line)[0].lower() for line in required}
    missing = {name for name in imported_libraries() if distributions.get(name, name).lower() not in named}
    # these come, at the only version that fits, with PySide6 and Numba
    assert missing - {"shiboken6", "llvmlite"} == set()


def test_every_requirement_is_used():
    """Nothing is downloaded for nothing."""
    distributions = {"pyside6-essentials": "PySide6"}
    used = imported_libraries() | {"imagecodecs"}  # tifffile's decoders
    names = {re.split(r"[\[<>=;! ]", line)[0].lower() for line in PROJECT["dependencies"]}
    assert {name for name in names if distributions.get(name, name) not in used} == set()


# ---- the wheel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel of this checkout, built from a copy so that nothing is left in the tree."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in ("relion_py", "pyproject.toml", "README.md", "LICENSE"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy / name)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *offline, "-w", out, "."],
        cwd=copy, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_has_every_file_of_the_package(wheel):
    tracked = {str(p.relative_to(ROOT)) for p in tracked_files() if p.is_relative_to(PACKAGE)}
    assert tracked <= set(wheel.namelist())
    assert any(name.endswith("LICENSE") for name in wheel.namelist())
    assert not [n for n in wheel.namelist() if n.split("/")[0] not in ("relion_py",) and ".dist-info" not in n]


def test_the_wheel_says_what_it_is(wheel):
    name = next(n for n in wheel.namelist() if n.endswith("METADATA"))
    metadata = wheel.read(name).decode()
    assert "Name: relion-py" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "GPL-3.0-or-later" in metadata
    points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    for script, target in SCRIPTS.items():
        assert f"{script} = {target}" in points


def test_the_wheel_works_where_the_checkout_is_not(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = (
        "import relion_py.compute.cli.import_, relion_py.jobs.registry as r; import relion_py;"
        "print(relion_py.__file__, len(r.all_specs()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "site/relion_py/__init__.py"), "22"], done.stderr


# ---- the tree ---------------------------------------------------------------------------------------------

# Hosts that the project may name: licence, papers, and documentation that people are sent to.
HOSTS = re.compile(r"(^|\.)(gnu\.org|fsf\.org|doi\.org|readthedocs\.io|github\.com|w3\.org|example\.(com|org))$")
# Written in two parts so that this file is not found by itself.
MACHINE = re.compile("/" + r"work/(main|shared|\.)|/" + r"opt/pypi|(extra-)?index" + r"-url|find" + r"-links")
TRACKER = re.compile(r"\bissue" + r"s?\s+#?\d|\b(see|fixes|closes) " + r"#\d", re.IGNORECASE)


def text_files() -> list[tuple[str, str]]:
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((str(path.relative_to(ROOT)), data.decode("utf-8", errors="replace")))
    return found


@pytest.mark.parametrize("pattern", [MACHINE, TRACKER], ids=["machine paths", "tracker"])
def test_the_tree_names_nothing_of_a_workplace(pattern):
    hits = [f"{name}: {found.group()}" for name, text in text_files() for found in pattern.finditer(text)]
    assert hits == []


def test_the_tree_links_to_public_places_only():
    hits = set()
    for name, text in text_files():
        for host in re.findall(r"https?://([^/\s:\"'`)<>]+)", text):
            if name != "LICENSE" and not HOSTS.search(host):
                hits.add(f"{name}: {host}")
    assert hits == set()


def test_the_tree_holds_no_large_or_generated_files():
    names = [path.relative_to(ROOT) for path in tracked_files()]
    assert [n for n in names if (ROOT / n).stat().st_size > 4 * 2**20] == []
    assert [n for n in names if n.suffix in (".pyc", ".so", ".whl") or "__pycache__" in n.parts] == []


# ---- the scripts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["scripts/common.sh", "scripts/demo", "scripts/test", ".ci/run"])
def test_shell_scripts_are_sound(script):
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_the_demonstration_refuses_what_it_does_not_know(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "scripts/demo", "--fast"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "--fast" in done.stderr


def test_a_missing_system_library_is_named_with_the_command_that_installs_it(tmp_path):
    """An ordinary user without sudo is told the one command, and nothing else is tried."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {"apt-get": "echo 'E: no' >&2; exit 100", "id": "echo 1000", "sudo": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", ". scripts/common.sh; need_debian python3.11-venv"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1
    commands = [line for line in done.stderr.splitlines() if "sudo apt-get install -y" in line]
    assert len(commands) == 1
    assert "python3.11-venv" in commands[0]
    assert "libegl1" in commands[0]
