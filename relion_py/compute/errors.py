"""The one way to report a person's mistake: an exception whose text is one sentence that says what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something the person who started the program can mend. Its text is one sentence."""


class Aborted(Exception):
    """The run was asked to stop (abort file, SIGTERM or an interrupt from the keyboard)."""
