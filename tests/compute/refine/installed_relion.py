"""Where the reference's own programs are: this package's programs have the same names and may come first."""

import os
from pathlib import Path


def installed_relion(program: str) -> str | None:
    """Path of a compiled program of RELION on the PATH or in /usr/bin; None if there is none."""
    for directory in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]:
        path = Path(directory) / program
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    return str(path)
    return None
