"""Functions of a test in processes of their own, quickly started.

pytest's own process is never forked: it holds threads of numerical libraries, and a fork may wait for them for ever.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process forked from a server that has no threads and has already imported what `target` needs.

    It sees nothing that a test patched in its own process: `target` patches again what it wants.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "relion_py.pipeline"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
