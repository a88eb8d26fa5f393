"""Many micrographs, several at a time: what cannot be used is told and listed, and the rest goes on."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from relion_py.compute.cli.program import Job
from relion_py.compute.errors import UserError


def go_through(
    job: Job,
    todo: Iterable[tuple[str, tuple[Any, ...]]],
    function: Callable[..., object],
    threads: int,
    *,
    shown: bool = True,
    stop: threading.Event | None = None,
) -> dict[str, str]:
    """function(*arguments) for each (micrograph, arguments), in threads; micrograph -> sentence for those that failed.

    A UserError, an OSError or too little memory ends one micrograph, anything else all. shown: with a progress bar.
    stop: is set when it ends early (an abort, say), so that work in other threads can end too.
    """
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        waiting: dict[Future[object], str] = {pool.submit(function, *given): name for name, given in todo}
        total = len(waiting)
        with job.progress(total) if shown else contextlib.nullcontext() as bar:
            try:
                while waiting:
                    job.check_abort()
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        _note(future, waiting.pop(future), failures)
                    if bar is not None:
                        bar.update(total - len(waiting))
            except BaseException:
                if stop is not None:
                    stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failures


def _note(future: Future[object], micrograph: str, failures: dict[str, str]) -> None:
    try:
        future.result()
    except (UserError, OSError, MemoryError) as error:
        sentence = str(error) or type(error).__name__
        failures[micrograph] = sentence
        print(f"WARNING: {micrograph} is skipped: {sentence}", file=sys.stderr)
