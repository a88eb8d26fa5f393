"""Particles as a refinement holds them: order, groups, halves, images, and the way back to a STAR file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_project import BOX, PIXEL, N, images, make_project, write_mrc

from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc, star
from relion_py.compute.parallel import SerialComm
from relion_py.compute.refine import source
from relion_py.compute.refine.data import ParticleSet, c_library_rand
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.scratch import Scratch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, groups=2))
    return tmp_path


@pytest.fixture
def particles(project: Path) -> ParticleSet:
    return ParticleSet.read("particles.star")


def edit(path: Path, label: str, values: object, block: str = "particles") -> None:
    tables = star.read(path)
    tables[block].set(label, values)
    star.write(path, tables)


def test_particles_are_sorted_by_micrograph_and_keep_their_order_within(particles: ParticleSet) -> None:
    names = particles.table.strings("rlnMicrographName")
    assert names == sorted(names)
    assert particles.table.strings("rlnSomebodysOwn")[:3] == ["001", "003", "005"]
    assert particles.image_name(0) == "000001@Extract/job003/mic1.mrcs"
    assert (particles.box_size, particles.pixel_size) == (BOX, PIXEL)


def test_groups_are_micrographs_without_the_job_that_made_them(project: Path, particles: ParticleSet) -> None:
    assert particles.group_names == ["Movies/mic1.mrc", "Movies/mic2.mrc"]
    assert particles.particles_per_group().tolist() == [N // 2, N // 2]
    edit(project / "particles.star", "rlnGroupName", ["a"] * 10 + ["b"] * (N - 10))
    named = ParticleSet.read("particles.star")
    assert named.group_names == ["a", "b"]
    assert named.particles_per_group().tolist() == [10, N - 10]


def test_what_the_file_lacks_starts_as_in_the_reference(particles: ParticleSet) -> None:
    for values in (particles.rot, particles.tilt, particles.psi, particles.origin_x, particles.origin_y):
        assert not values.any()
    assert (particles.norm_correction == 1).all() and particles.rot_prior is None


def test_random_numbers_are_those_of_the_c_library() -> None:
    libc = ctypes.CDLL(None)
    for seed in (0, 1, 42, 1725014825, 2**31 - 1):
        libc.srand(seed)
        assert c_library_rand(seed, 2000).tolist() == [libc.rand() for _ in range(2000)]


def test_random_halves(particles: ParticleSet) -> None:
    libc = ctypes.CDLL(None)
    libc.srand(11)
    particles.split_random_halves(11)
    assert particles.random_subset.tolist() == [libc.rand() % 2 + 1 for _ in range(N)]
    one, two = particles.members(1), particles.members(2)
    assert sorted([*one, *two]) == list(range(N))
    assert (particles.particles_per_group(1) + particles.particles_per_group(2)).tolist() == [N // 2] * 2


def test_halves_of_the_file_are_kept(project: Path) -> None:
    wanted = [1, 1, 2, 2] * (N // 4)
    edit(project / "particles.star", "rlnRandomSubset", wanted)
    particles = ParticleSet.read("particles.star")
    before = particles.random_subset.copy()
    particles.split_random_halves(3)
    assert (particles.random_subset == before).all()
    assert np.bincount(before).tolist() == [0, N // 2, N // 2]


@pytest.mark.parametrize(
    ("subset", "words"),
    [
        ([0, 1] * (N // 2), "is 0 for some particles"),
        ([1, 3] * (N // 2), "must be 1 or 2, not 3"),
        ([1] * N, "half 2 has no particles"),
    ],
)
def test_impossible_halves_are_refused(project: Path, subset: list[int], words: str) -> None:
    edit(project / "particles.star", "rlnRandomSubset", subset)
    with pytest.raises(UserError, match=words):
        ParticleSet.read("particles.star").split_random_halves(1)


def truth(particles: ParticleSet, indices: list[int]) -> np.ndarray:
    """The pixels as they were made, found by name."""
    found = []
    for index in indices:
        number, path = particles.image_name(index).split("@")
        found.append(images(int(path[-6]))[int(number) - 1])
    return np.stack(found)


@pytest.mark.req("I2")
def test_a_stack_is_opened_once_for_each_pool(particles: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = mrc.open_stack
    monkeypatch.setattr(mrc, "open_stack", lambda path: opened.append(path) or real(path))
    pools = list(source.batches(particles, np.arange(N), 10, RefineOptions(pool=10), SerialComm()))
    assert [len(index) for index, _ in pools] == [10, 10, N - 20]
    stacks = [{particles.image_name(i).split("@")[1] for i in index} for index, _ in pools]
    assert sorted(str(Path(path)) for path in opened) == sorted(path for pool in stacks for path in pool)


def test_images_are_the_same_from_stacks_memory_and_scratch(project: Path, particles: ParticleSet) -> None:
    wanted = [5, 20, 0, 13]
    expected = truth(particles, wanted)
    np.testing.assert_array_equal(particles.read_images(wanted), expected)

    copies = ParticleSet.read("particles.star")
    (project / "fast").mkdir()
    scratch = Scratch(str(project / "fast"), copies.image_names_by_optics_group())
    scratch.copy(keep_free=0)
    scratch.attach({1: 6, 2: 100})  # as if only six of the first group had fitted
    copies.use_scratch(scratch)
    np.testing.assert_array_equal(copies.read_images(wanted), expected)
    np.testing.assert_array_equal(copies.read_images(range(N)), truth(particles, list(range(N))))

    assert particles.preread_bytes == N * BOX * BOX * 4
    particles.preread()
    for path in project.glob("Extract/job003/*.mrcs"):
        path.unlink()
    np.testing.assert_array_equal(particles.read_images(wanted), expected)


@pytest.mark.parametrize("where", ["stacks", "memory", "scratch"])
def test_images_of_two_sizes_are_read_from_anywhere(project: Path, where: str) -> None:
    """The second optics group is the second micrograph, whose images are cut smaller."""
    small = BOX - 8
    edit(project / "particles.star", "rlnOpticsGroup", [str(2 - i % 2) for i in range(N)])
    tables = star.read(project / "particles.star")
    tables["optics"].set("rlnImageSize", [str(BOX), str(small)])
    star.write(project / "particles.star", tables)
    write_mrc(project / "Extract/job003/mic2.mrcs", images(2)[:, 4:-4, 4:-4])
    particles = ParticleSet.read("particles.star")
    assert particles.preread_bytes == 4 * (N // 2) * (BOX**2 + small**2)
    assert [g.box for g in particles.geometries(BOX, PIXEL)] == [BOX, small]
    if where == "memory":
        particles.preread(np.arange(0, N, 2))  # and the others where they were
    if where == "scratch":
        (project / "fast").mkdir()
        scratch = Scratch(str(project / "fast"), particles.image_names_by_optics_group())
        scratch.attach(scratch.copy(keep_free=0))
        particles.use_scratch(scratch)
    for group, box in ((0, BOX), (1, small)):
        mine = np.flatnonzero(particles.optics_group == group)
        cut = slice((BOX - box) // 2, (BOX + box) // 2)
        np.testing.assert_array_equal(particles.read_images(mine), truth(particles, mine.tolist())[:, cut, cut])


def test_a_rank_that_holds_its_share_reads_the_others_all_the_same(particles: ParticleSet) -> None:
    particles.preread([2, 3, 5])
    np.testing.assert_array_equal(particles.read_images([5, 7, 2, 0]), truth(particles, [5, 7, 2, 0]))


def test_the_way_back_keeps_what_was_there_and_adds_what_the_reference_adds(particles: ParticleSet) -> None:
    particles.split_random_halves(1)
    particles.psi[:] = np.arange(N) / 3
    particles.origin_x[4] = -1.25
    before = particles.table.particles.labels
    written = particles.to_star()
    added = written["particles"].labels[len(before) :]
    assert written["particles"].labels[: len(before)] == before
    assert added == [  # exp_model.cpp, Experiment::read
        "rlnGroupNumber", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst",
        "rlnClassNumber", "rlnNormCorrection", "rlnRandomSubset",
    ]  # fmt: skip
    assert written["particles"].strings("rlnSomebodysOwn") == particles.table.strings("rlnSomebodysOwn")
    assert written["particles"].strings("rlnOriginXAngst")[4] == "-1.25000"
    assert written["particles"].ints("rlnGroupNumber").tolist() == [1] * (N // 2) + [2] * (N // 2)
    particles.has_results = True
    assert particles.to_star()["particles"].labels[-3:] == [
        "rlnLogLikeliContribution",
        "rlnMaxValueProbDistribution",
        "rlnNrOfSignificantSamples",
    ]
    assert "rlnAngleRot" not in particles.table.particles  # the set itself is untouched


def test_rot_and_tilt_of_the_file_stay_where_images_turn_in_their_plane(particles: ParticleSet) -> None:
    table = particles.table.particles
    for place, label in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")):
        table.set(label, 10.0 * place + np.arange(N))
    written = ParticleSet.from_table(particles.table)
    written.rot[:] = written.tilt[:] = written.psi[:] = 0.0
    flat = written.to_star(flat=True)["particles"]
    np.testing.assert_array_equal(flat.floats("rlnAngleTilt"), 10.0 + np.arange(N))
    assert not flat.floats("rlnAnglePsi").any() and not written.to_star()["particles"].floats("rlnAngleTilt").any()


def test_columns_of_a_real_file_of_release_4_stay_in_place(shared: Path, unpacked: Callable[[Path], Path]) -> None:
    path = unpacked(shared / "golden/projects/em-testdata-relion4/run_it025_data.star.gz")
    original = star.read(path)
    particles = ParticleSet.read(str(path))
    written = particles.to_star()
    assert written["particles"].labels == original["particles"].labels
    for label in original["particles"].labels:
        if "Name" in label or label in ("rlnGroupNumber", "rlnClassNumber"):
            assert written["particles"].strings(label) == original["particles"].strings(label), label
        else:
            np.testing.assert_allclose(
                written["particles"].floats(label), original["particles"].floats(label), rtol=2e-6, atol=1e-6
            )
    assert written["optics"] == original["optics"]


def test_a_pose_that_is_no_number_is_named(project: Path) -> None:
    edit(project / "particles.star", "rlnAngleRot", ["nan", *["0"] * (N - 1)])
    with pytest.raises(UserError, match=r"_rlnAngleRot of 000001@Extract/job003/mic2\.mrcs is not a number"):
        ParticleSet.read("particles.star")
