"""Programs of this package run in the test's own process, which need not start and import again."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from relion_py.compute.cli.program import Job, run


def exit_status(main: Callable[[], object], *words: str) -> int:
    """The exit status of a console script's function with these words behind its name."""
    with mock.patch.object(sys, "argv", [main.__module__.rpartition(".")[2], *words]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def outcome(main: Callable[[list[str], Job], None], directory: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and errors of a program's `_main`, run in a directory."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(directory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return run(main, list(words)), out.getvalue(), err.getvalue()
