"""Pictures of each tab of each job type, for looking at: python -m relion_py.gui.screenshots OUT

Works without a screen (QT_QPA_PLATFORM=offscreen) and on one; the project is a temporary one.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from relion_py.gui import app as application


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m relion_py.gui.screenshots", description=__doc__)
    parser.add_argument("out", type=Path, help="directory for the pictures, made if missing")
    parser.add_argument("--size", default="1280x800", help="width and height in pixels (default: 1280x800)")
    parser.add_argument("--appearance", choices=("light", "dark"), default="light")
    options = parser.parse_args(argv)
    width, height = (int(number) for number in options.size.split("x"))
    options.out.mkdir(parents=True, exist_ok=True)
    app = application.make_application(options.appearance)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "project"
        root.mkdir()
        window = application.open_window(root)
        if window is None:
            return 1
        window.resize(width, height)
        window.show()
        for spec in window.specs:
            window.new_job(spec.type_label)
            deadline = time.monotonic() + 5
            while not window.is_filled and time.monotonic() < deadline:
                app.processEvents()
            form = window.form_for(spec)
            for tab in range(form.count()):
                form.setCurrentIndex(tab)
                app.processEvents()
                name = re.sub(r"[^A-Za-z0-9]+", "_", f"{spec.directory} {form.tabText(tab)}")
                window.grab().save(str(options.out / f"{name}.png"))
        window.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
