"""Programs of this package run in the test's own process, which need not start and import again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest import mock


def exit_status(main: Callable[[], object], *words: str) -> int:
    """The exit status of a console script's function with these words behind its name."""
    with mock.patch.object(sys, "argv", [main.__module__.rpartition(".")[2], *words]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
