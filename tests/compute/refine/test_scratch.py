"""Scratch: where the copies lie, what they hold, what happens when they do not fit, and that they go away."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from small_project import ARGS, BOX, N, make_project, write_mrc

from relion_py.compute.errors import UserError
from relion_py.compute.parallel.comm import SerialComm
from relion_py.compute.refine import scratch as module
from relion_py.compute.refine import source
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.scratch import Scratch


@pytest.fixture
def particles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ParticleSet:
    monkeypatch.chdir(make_project(tmp_path, groups=2))
    (tmp_path / "fast").mkdir()
    return ParticleSet.read("particles.star")


@pytest.fixture
def scratch(particles: ParticleSet) -> Scratch:
    return Scratch("fast", particles.image_names_by_optics_group())


@pytest.mark.req("I4")
def test_one_world_writable_stack_per_optics_group(particles: ParticleSet, scratch: Scratch) -> None:
    old = os.umask(0o077)
    try:
        assert scratch.copy(keep_free=0) == {1: N // 2, 2: N // 2}
    finally:
        os.umask(old)
    directory = Path("fast/relion_volatile")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o777
    for group in (1, 2):
        stack = directory / f"opticsgroup{group}_particles.mrcs"
        assert stat.S_IMODE(stack.stat().st_mode) == 0o777
        expected = particles.read_images(np.flatnonzero(particles.optics_group == group - 1))
        with mrcfile.open(stack) as file:
            np.testing.assert_array_equal(file.data, expected)
    scratch.remove()
    assert os.listdir("fast") == []


@pytest.mark.req("I4")
def test_what_does_not_fit_is_read_from_where_it_was(
    particles: ParticleSet, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 1024**3 + 17 * BOX * BOX * 4 + 100  # a GB to be left free, and 17 images
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, room))
    assert scratch.copy(keep_free=1) == {1: N // 2, 2: 17 - N // 2}
    names = particles.image_names_by_optics_group()
    assert [scratch.place(2, name) for name in names[2]] == [0, 1, 2, 3, 4] + [-1] * (N // 2 - 5)
    before = particles.read_images(range(N))
    particles.use_scratch(scratch)
    np.testing.assert_array_equal(particles.read_images(range(N)), before)


@pytest.mark.req("I4")
def test_old_copies_are_wiped_before(scratch: Scratch) -> None:
    Path("fast/relion_volatile").mkdir()
    Path("fast/relion_volatile/opticsgroup9_particles.mrcs").write_bytes(b"old")
    scratch.copy(keep_free=0)
    assert not Path("fast/relion_volatile/opticsgroup9_particles.mrcs").exists()


@pytest.mark.req("I4")
def test_an_abort_while_copying_leaves_nothing(scratch: Scratch) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == N
        raise Stopped

    with pytest.raises(Stopped):
        scratch.copy(keep_free=0, progress=stop)
    assert os.listdir("fast") == []


@pytest.mark.req("I4")
def test_copies_are_kept_and_used_again_when_asked(particles: ParticleSet, scratch: Scratch) -> None:
    keep = RefineOptions.from_args({**ARGS, "--scratch_dir": "fast", "--keep_scratch": True,
                                    "--keep_free_scratch": "0"})  # fmt: skip
    alone = SerialComm()

    def copied(options: RefineOptions) -> ParticleSet:
        mine = ParticleSet.read("particles.star")
        source.prepare(mine, options, alone, lambda text: None, lambda done, total: None)
        return mine

    first = copied(keep)
    source.finish(first, keep, alone)
    stack = Path("fast/relion_volatile/opticsgroup1_particles.mrcs")
    made = stack.stat().st_mtime_ns
    again = RefineOptions.from_args({**ARGS, "--scratch_dir": "fast", "--reuse_scratch": True})
    second = copied(again)
    assert stack.stat().st_mtime_ns == made
    np.testing.assert_array_equal(second.read_images(range(N)), particles.read_images(range(N)))
    source.finish(second, again, alone)
    assert os.listdir("fast") == []


def test_copies_of_other_particles_are_not_used(particles: ParticleSet, scratch: Scratch) -> None:
    scratch.copy(keep_free=0)
    names = particles.image_names_by_optics_group()
    other = Scratch("fast", {1: names[1][::-1], 2: names[2]})
    with pytest.raises(UserError, match="holds other particles"):
        other.reuse()
    with pytest.raises(UserError, match="so there is nothing to reuse"):
        Scratch("fast", {**names, 3: ["1@x.mrcs"]}).reuse()


@pytest.mark.req("I4")
def test_a_stack_that_the_reference_left_is_used_when_the_count_agrees(
    particles: ParticleSet, scratch: Scratch, debian_relion: Callable[[str], str]
) -> None:
    program = debian_relion("relion_refine")
    done = subprocess.run(
        [program, "--i", "particles.star", "--o", "Refine3D/job004/run", "--ref", "ref.mrc", "--iter", "0",
         "--scratch_dir", "fast", "--keep_free_scratch", "0", "--keep_scratch", "--particle_diameter", "60",
         "--ctf", "--dont_check_norm", "--healpix_order", "0", "--offset_range", "1"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    stack = Path("fast/relion_volatile/opticsgroup1_particles.mrcs")
    if not stack.exists():
        pytest.skip(f"this relion_refine leaves no copies: {done.stderr[-200:]}")
    assert scratch.reuse() == {1: N // 2, 2: N // 2}
    before = particles.read_images(range(N))
    particles.use_scratch(scratch)
    np.testing.assert_array_equal(particles.read_images(range(N)), before)


def test_a_directory_that_is_not_there_or_a_link_is_refused(tmp_path: Path, particles: ParticleSet) -> None:
    names = particles.image_names_by_optics_group()
    with pytest.raises(UserError, match="does not exist: give another --scratch_dir"):
        Scratch("nowhere", names).copy(0)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/data").write_text("keep me")
    os.symlink(tmp_path / "precious", tmp_path / "fast/relion_volatile")
    link = Scratch("fast", names)
    with pytest.raises(UserError, match="will not be wiped"):
        link.copy(0)
    link.remove()
    assert (tmp_path / "precious/data").read_text() == "keep me"


def test_the_copies_of_a_running_job_are_left_alone(particles: ParticleSet, scratch: Scratch) -> None:
    code = (
        "import sys; from relion_py.compute.refine.scratch import Scratch\n"
        "Scratch('fast', {1: ['1@Extract/job003/mic1.mrcs']}).copy(0); print('there', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "there\n"
        with pytest.raises(UserError, match=f"in use by another running job \\(process {other.pid}\\)"):
            scratch.copy(0)
        other.kill()
        other.wait()
    scratch.copy(0)  # what a killed job left is no obstacle


def refine(*more: str) -> subprocess.CompletedProcess[str]:
    words = (
        "--i particles.star --o Refine3D/job004/run --ref ref.mrc --auto_refine --split_random_halves --ctf "
        "--particle_diameter 60 --ini_high 20 --healpix_order 0 --offset_range 1 --random_seed 3 --iter 1 "
        "--scratch_dir fast --keep_free_scratch 0 --pipeline_control Refine3D/job004/"
    )
    command = [sys.executable, "-m", "relion_py.compute.cli.refine", *words.split(), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.req("I4")
def test_a_program_that_fails_or_is_stopped_leaves_no_copies(particles: ParticleSet) -> None:
    good = refine()
    assert good.returncode == 0, good.stderr
    assert "Copying particles to scratch" in good.stdout and os.listdir("fast") == []

    Path("Refine3D/job004/RELION_JOB_ABORT_NOW").touch()
    stopped = refine()
    assert stopped.returncode == 1 and Path("Refine3D/job004/RELION_JOB_EXIT_ABORTED").exists()
    assert os.listdir("fast") == []

    write_mrc(Path("mask.mrc"), np.zeros((BOX,) * 3))  # found empty only when it is read, after the copying
    failed = refine("--solvent_mask", "mask.mrc", "--flatten_solvent")
    assert failed.returncode == 1 and Path("Refine3D/job004/RELION_JOB_EXIT_FAILURE").exists()
    assert "The solvent mask mask.mrc is empty" in failed.stderr and "Traceback" not in failed.stderr
    assert os.listdir("fast") == []


def test_half_precision_stays_half_precision(particles: ParticleSet, scratch: Scratch) -> None:
    for path in Path("Extract/job003").glob("*.mrcs"):
        data = mrcfile.read(path).astype(np.float16)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(data)
            file.set_image_stack()
    scratch.copy(0)
    with mrcfile.open(scratch.stack(1)) as file:
        assert file.header.mode == 12
    before = particles.read_images([0, 7])
    particles.use_scratch(scratch)
    np.testing.assert_array_equal(particles.read_images([0, 7]), before)


@pytest.mark.req("I3")
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("halves", "share"), ("--K", "share"), ("--grad", "all"), ("--fast_subsets", "all")],
)
def test_images_in_memory_need_no_stacks(particles: ParticleSet, kind: str, wanted: str) -> None:
    """Of a rank's share, the second half for the second of two, or of all where random subsets change hands."""
    more = {"--K": {"--K": "2"}, "--grad": {"--grad": True}, "--fast_subsets": {"--fast_subsets": True}}.get(kind, {})
    args = {k: v for k, v in ARGS.items() if kind == "halves" or k not in ("--auto_refine", "--split_random_halves")}
    options = RefineOptions.from_args({**args, **more, "--preread_images": True})
    mine, second_of_two = ParticleSet.read("particles.star"), SimpleNamespace(rank=1, size=2)
    if kind == "halves":
        mine.split_random_halves(1)
    source.prepare(mine, options, second_of_two, lambda text: None, lambda done, total: None)
    for stack in Path("Extract/job003").iterdir():
        stack.unlink()
    index = mine.members(2) if kind == "halves" else mine.members()[1::2] if wanted == "share" else mine.members()
    assert mine.read_images(index).shape == (len(index), BOX, BOX)
