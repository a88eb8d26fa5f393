"""What every test may use: reference data where they are present, and Debian's RELION as a witness.

Both are optional: a test that asks for them skips, with the reason, where they are absent.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from reference_data import SHARED

# Tests run side by side and must not fight for cores; windows need no screen.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

# A busy machine may take long for any example.
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")

DEBIAN_BIN = Path("/usr/bin")
"""Where Debian's packages `relion` and `relion-gui` (release 3.1.3) put their programs."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of reference data."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data are not here ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def debian_relion() -> Callable[[str], str]:
    """debian_relion("relion_image_handler") is the path of that program of RELION 3.1.3."""

    def find(program: str) -> str:
        path = DEBIAN_BIN / program
        if not path.is_file():
            pytest.skip(f"Debian's {program} is not installed")
        return str(path)

    return find


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[Path], Path]:
    """unpacked(path of a .gz file) is an uncompressed copy of it, with the same name less `.gz`."""

    def unpack(path: Path) -> Path:
        target = tmp_path / path.name.removesuffix(".gz")
        target.write_bytes(gzip.decompress(path.read_bytes()))
        return target

    return unpack
