"""The programs that an installation puts on the PATH."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_program_exists(name):
    module, _, function = SCRIPTS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_program_is_on_the_path_of_the_installation(name):
    if not (BIN / "relion").is_file():
        pytest.skip("the package is not installed in this environment")
    module, _, function = SCRIPTS[name].partition(":")
    assert f"from {module} import {function}" in (BIN / name).read_text()


@pytest.mark.parametrize("name", ["relion_refine", "relion_reconstruct", "relion_run_ctffind_mpi"])
def test_programs_tell_their_usage_and_version(name):
    if not (BIN / name).is_file():
        pytest.skip("the package is not installed in this environment")
    usage = subprocess.run([BIN / name], capture_output=True, text=True, timeout=60)
    assert usage.returncode == 0
    assert usage.stdout.startswith("usage: ")
    version = subprocess.run([BIN / name, "--version"], capture_output=True, text=True, timeout=60)
    assert version.stdout.startswith("relion_py version ")


@pytest.mark.req("A2")
def test_sequential_and_mpi_programs_share_one_entry():
    pairs = [name for name in SCRIPTS if name.endswith("_mpi")]
    assert pairs
    for name in pairs:
        assert SCRIPTS[name] == SCRIPTS[name.removesuffix("_mpi")]
