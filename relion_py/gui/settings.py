"""Where the window remembers its size, its splitters and the taste of its user.

Preferences are a small INI file in the place the operating system keeps for them (platformdirs), never in the
project, so that a project directory holds only what belongs to the project.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
from PySide6.QtCore import QSettings


def settings_file() -> Path:
    """The preferences file; `RELION_PY_CONFIG_DIR` moves it (tests, shared accounts)."""
    base = os.environ.get("RELION_PY_CONFIG_DIR") or platformdirs.user_config_dir("relion_py", appauthor=False)
    return Path(base) / "window.ini"


def settings() -> QSettings:
    """Open the preferences; a directory that cannot be written only means that nothing is remembered."""
    return QSettings(str(settings_file()), QSettings.Format.IniFormat)
