"""Compiled modules of SciPy, loaded without the packages around them: those import a tenth of a second of Python."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType


def load_alone(name: str) -> ModuleType | None:
    """The compiled module of this full name, such as "scipy.linalg.cython_blas"; None where SciPy has no such file.

    Whoever imports it later, its own package too, gets the same module.
    """
    if name in sys.modules:
        return sys.modules[name]
    top, *folders, last = name.split(".")
    package = importlib.util.find_spec(top)
    for place in (package.submodule_search_locations or ()) if package else ():
        for suffix in EXTENSION_SUFFIXES:
            path = os.path.join(place, *folders, last + suffix)
            spec = importlib.util.spec_from_file_location(name, path) if os.path.isfile(path) else None
            if spec is None or spec.loader is None:
                continue
            try:
                module = sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            except ImportError:
                sys.modules.pop(name, None)
                return None
            return module
    return None
