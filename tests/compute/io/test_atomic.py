"""Files that are written together take their names together, once all of them are safe on the disc."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from relion_py.compute.io.atomic import atomic_write, written_together


def test_all_are_on_the_disc_before_the_first_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    lock, sync, replace = threading.Lock(), os.fsync, os.replace

    def seen_sync(handle: int) -> None:
        sync(handle)
        with lock:
            done.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name.split(".")[0])

    def seen_replace(source: str, target: str) -> None:
        done.append("name " + Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "replace", seen_replace)
    (tmp_path / "a").write_bytes(b"old")
    with written_together():
        for name in "abc":
            atomic_write(tmp_path / name, name.encode())
        assert (tmp_path / "a").read_bytes() == b"old" and not (tmp_path / "b").exists() and not done
    assert sorted(done[:3]) == ["sync a", "sync b", "sync c"]
    assert done[3:] == ["name a", "name b", "name c", f"sync {tmp_path.name}"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"] and (tmp_path / "a").read_bytes() == b"a"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="no room"), written_together():
        atomic_write(tmp_path / "a", b"new")
        atomic_write(tmp_path / "b", b"new")
        raise OSError("no room")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    atomic_write(tmp_path / "a", b"newer")  # afterwards each file is written at once again
    assert (tmp_path / "a").read_bytes() == b"newer"


def test_other_threads_write_at_once(tmp_path: Path) -> None:
    with written_together():
        thread = threading.Thread(target=atomic_write, args=(tmp_path / "other", b"here"))
        thread.start()
        thread.join()
        assert (tmp_path / "other").read_bytes() == b"here"
