"""Many micrographs, several at a time or one by one: what cannot be used is told and listed, and the rest goes on."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from relion_py.compute.cli.program import Job, system_sentence
from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import DISC_IS_FULL

Item = TypeVar("Item")
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def in_threads(pool: ThreadPoolExecutor, check_abort: Callable[[], None]) -> Mapper:
    """The pool's `map`, before which a request to stop counts: one large movie may take minutes."""

    def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        check_abort()
        return pool.map(function, items)

    return run


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

    A UserError, an OSError or too little memory ends one micrograph, a full disc and anything else all.
    shown: with a progress bar. stop: is set when it ends early (an abort, say), so that work in other threads can end.
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


def one_by_one(
    job: Job,
    todo: Sequence[Item],
    name: Callable[[Item], str],
    work: Callable[[Item], None],
    *,
    shown: bool = True,
    warning: str = "{name} is left out: {error}",
) -> dict[str, str]:
    """work(item) for each of this rank's share of `todo`; name -> sentence for those that failed with a UserError.

    For items so large that the threads are needed for each of them. shown: with a progress bar. The first rank is
    told the failures of all, others of none.
    """
    failures: dict[str, str] = {}
    mine = todo[job.comm.rank :: job.comm.size]
    with job.progress(len(mine)) if shown else contextlib.nullcontext() as bar:
        for done, item in enumerate(mine, 1):
            job.check_abort()
            try:
                work(item)
            except UserError as error:
                failures[name(item)] = str(error)
                print("WARNING: " + warning.format(name=name(item), error=error), file=sys.stderr, flush=True)
            if bar is not None:
                bar.update(done)
    gathered = job.comm.gather(failures) or []  # of all ranks on the first, None on others
    return {one: sentence for part in gathered for one, sentence in part.items()}


def skip(micrograph: str, error: BaseException, failures: dict[str, str]) -> None:
    """Tell and note that the error ends this micrograph; it is raised again where the others would fare no better."""
    if isinstance(error, OSError) and error.errno in DISC_IS_FULL:
        raise error
    failures[micrograph] = system_sentence(error) or str(error) or type(error).__name__
    print(f"WARNING: {micrograph} is skipped: {failures[micrograph]}", file=sys.stderr)


def _note(future: Future[object], micrograph: str, failures: dict[str, str]) -> None:
    try:
        future.result()
    except (UserError, OSError, MemoryError) as error:
        skip(micrograph, error, failures)
