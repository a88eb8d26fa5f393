"""What the window programs share: options, a screen to draw on, and the files that tell the pipeline how it
ended."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from relion_py import __version__
from relion_py.gui.display.errors import DisplayError

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"


class Parser(argparse.ArgumentParser):
    """Mistakes in the options are DisplayErrors: one sentence."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(program, description=description, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"relion_py version {__version__}")
        self.add_argument("--pipeline_control", default="", help="job directory that gets the exit file")

    def error(self, message: str) -> NoReturn:
        raise DisplayError(f"{message[:1].upper()}{message[1:]}; {self.prog} --help lists the options")

    def words(self, argv: Sequence[str], refused: Mapping[str, str]) -> argparse.Namespace:
        """What the words mean; refused: option of the reference that is not here -> why.

        Words that are no options are warned about and ignored, as in all programs (args.cpp, checkForErrors).
        """
        for word in argv:
            if word in refused:
                raise DisplayError(f"{word} is not offered: {refused[word]}")
        options, unknown = self.parse_known_args(list(argv))
        for word in unknown:
            print(f'WARNING: "{word}" is not an option of this program and is ignored.', file=sys.stderr)
        return options


def choose_platform(exporting: bool = False) -> None:
    """Without a screen pictures are drawn off-screen; a window cannot be: say so before Qt gives up."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen or os.environ.get("QT_QPA_PLATFORM") or not sys.platform.startswith("linux"):
        return
    if not exporting:
        raise DisplayError(
            "There is no screen to open a window on (DISPLAY is not set); relion_display --export FILE.png "
            "writes a picture"
        )
    os.environ["QT_QPA_PLATFORM"] = "offscreen"


def run_program(argv: Sequence[str] | None, parser: Callable[[], Parser], run: Callable[[Sequence[str]], int]) -> int:
    """The exit status of run(words), the words after the program's name; usage without any.

    A mistake is told in one sentence, and to the pipeline, also where other options are mistaken.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser().print_help()
        return 0
    try:
        return run(words)
    except DisplayError as error:
        print(f"{str(error).rstrip('.')}.", file=sys.stderr)
        if "--pipeline_control" in words[:-1]:
            exit_file(words[words.index("--pipeline_control") + 1], FAILURE)
        return 1


def exit_file(directory: str, name: str) -> None:
    """Tell the pipeline how it ended."""
    if not directory or not Path(directory).is_dir():
        return
    for other in (SUCCESS, FAILURE, ABORTED):
        Path(directory, other).unlink(missing_ok=True)
    Path(directory, name).touch()
