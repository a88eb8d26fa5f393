"""What a refinement asks of the program that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from relion_py.compute.parallel.comm import Communicator


class Progress(Protocol):
    """A progress bar."""

    def update(self, done: int) -> None:
        """`done` pieces are finished."""


class Host(Protocol):
    """What a refinement runs in: its ranks, where it talks to, and who may stop it (`cli.program.Job`)."""

    comm: Communicator

    @property
    def check_abort(self) -> Callable[[], None]:
        """To be called between small pieces of work; raises when the run is to stop."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def progress(self, total: int) -> AbstractContextManager[Progress]:
        """A progress bar of `total` pieces."""
