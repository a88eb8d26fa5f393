"""What importing a module costs, counted in calls: seconds would say as much of the machine as of the module."""

from __future__ import annotations

import subprocess
import sys

COUNTING = """
import sys
calls = 0
def count(frame, event, argument):
    global calls
    calls += event == "call"
sys.setprofile(count)
import {module}
sys.setprofile(None)
print(calls, *sys.modules)
"""


def import_cost(module: str) -> tuple[int, set[str]]:
    """Calls of Python functions while a fresh interpreter imports `module`, and all modules loaded then.

    A machine that imports 20,000 calls' worth in 50 ms is neither fast nor slow.
    """
    code = COUNTING.format(module=module)
    calls, *modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    return int(calls), set(modules)
