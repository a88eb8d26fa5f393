"""The one exception that viewers raise for people: a sentence that says what cannot be shown and why."""

from __future__ import annotations


class DisplayError(Exception):
    """A file or node cannot be shown; the text is one sentence for the person who asked."""
