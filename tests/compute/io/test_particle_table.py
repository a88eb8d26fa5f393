"""Particle tables of every release, and the images that they name."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.compute.io import labels, mrc, star
from relion_py.compute.io.mrc import MrcError
from relion_py.compute.io.particles import (
    ParticleTable,
    read_particles,
    split_image_name,
    split_image_names,
    write_particles,
)
from relion_py.compute.io.star import StarError, StarFile, Table


def make_project(root, stacks=2, images=6, box=8, seed=0):
    """Stacks under root/Extract and particles.star, whose particles go through the stacks in turn."""
    rng = np.random.default_rng(seed)
    (root / "Extract").mkdir(parents=True, exist_ok=True)
    data = rng.normal(size=(stacks, images, box, box)).astype(np.float32)
    for number in range(stacks):
        mrc.write_stack(root / f"Extract/s{number}.mrcs", data[number], 2.0)
    order = [(i, s) for i in range(images) for s in range(stacks)]
    optics = Table(
        {
            "rlnOpticsGroup": range(1, stacks + 1),
            "rlnOpticsGroupName": [f"og{s}" for s in range(stacks)],
            "rlnVoltage": 300.0,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnImagePixelSize": 2.0,
            "rlnImageSize": box,
            "rlnImageDimensionality": 2,
        }
    )
    particles = Table(
        {
            "rlnImageName": [f"{i + 1:06d}@Extract/s{s}.mrcs" for i, s in order],
            "rlnOpticsGroup": [s + 1 for _, s in order],
            "rlnDefocusU": np.linspace(10000, 20000, len(order)),
            "rlnDefocusV": np.linspace(10000, 20000, len(order)),
            "rlnDefocusAngle": 0.0,
            "notOurs": "001",
        }
    )
    file = StarFile([("optics", optics), ("particles", particles), ("other", Table({"x": ["kept"]}))])
    star.write(root / "particles.star", file)
    return np.array([data[s, i] for i, s in order])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000123@stack.mrcs", (122, "stack.mrcs")),
        ("1@a@b.mrcs", None),
        ("7@dir/x.img:mrcs", (6, "dir/x.img")),
        ("alone.mrc", (0, "alone.mrc")),
        ("0@x.mrcs", None),
        ("x@y.mrcs", None),
        ("1@", None),
    ],
)
def test_image_names(name, expected):
    if expected is None:
        with pytest.raises(StarError, match="not an image name"):
            split_image_name(name)
    else:
        assert split_image_name(name) == expected


_PLAIN = st.builds("{:06d}@Extract/job{}.mrcs".format, st.integers(1, 300), st.integers(0, 3))
_ODD = st.sampled_from(
    [
        "7@a.img:mrcs",
        "a.mrc",
        "0@a",
        "@a",
        "1@",
        "x@a",
        "+1@a",
        "1_0@a",
        "1@a@b",
        "٣@a",
        "²@a",
        "3@a:b",
        "",
        "1@\n",
        "\n",
    ]
)


@given(st.lists(_PLAIN, max_size=6), st.lists(_ODD, max_size=2))
def test_names_are_split_together_as_one_by_one(plain: list[str], odd: list[str]) -> None:
    names = plain + odd
    try:
        wanted = [split_image_name(name) for name in names]
    except StarError as error:
        with pytest.raises(StarError) as caught:
            split_image_names(names)
        assert str(caught.value) == str(error)
        return
    sections, paths = split_image_names(names)
    assert sections.dtype == np.int64
    assert list(zip(sections.tolist(), paths, strict=True)) == wanted


def test_images_come_in_the_order_asked_for(tmp_path):
    truth = make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    wanted = [11, 0, 5, 5, 2]
    images = table.read_images(wanted)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, truth[wanted])
    with ThreadPoolExecutor(4) as pool:
        for index, image in enumerate(pool.map(lambda i: table.read_images([i])[0], range(len(table)))):
            np.testing.assert_array_equal(image, truth[index])
    assert table.read_images([]).shape[0] == 0


def test_each_stack_is_opened_once_a_batch(tmp_path, monkeypatch):
    make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    opened = []
    original = mrc.open_stack
    monkeypatch.setattr(mrc, "open_stack", lambda path: opened.append(path) or original(path))
    table.read_images(range(12))
    assert len(opened) == 2


def test_optics_groups_and_columns(tmp_path):
    make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    assert [(g.number, g.name, g.pixel_size, g.box_size) for g in table.optics_groups] == [
        (1, "og0", 2.0, 8),
        (2, "og1", 2.0, 8),
    ]
    assert table.group_index.tolist() == [0, 1] * 6
    np.testing.assert_array_equal(table.per_particle("voltage"), np.full(12, 300.0))
    assert table.floats("rlnAngleRot", 0.0).tolist() == [0.0] * 12
    assert table.strings("notOurs") == ["001"] * 12
    chosen = table.select([3, 1])
    assert chosen.section.tolist() == [1, 0]
    assert chosen.group_index.tolist() == [1, 1]
    assert len(table) == 12


@pytest.mark.req("E1")
def test_what_nobody_knows_survives_writing(tmp_path):
    make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    write_particles(tmp_path / "again.star", table)
    again = star.read(tmp_path / "again.star")
    assert again.blocks == star.read(tmp_path / "particles.star").blocks
    assert again["other"].value("x") == "kept"


def test_faults_are_named(tmp_path):
    make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    table.particles.set("rlnOpticsGroup", [7] + [1] * 11)
    with pytest.raises(StarError, match="optics group 7"):
        _ = ParticleTable(table.star, tmp_path).group_index
    file = star.read(tmp_path / "particles.star")
    file["optics"].remove("rlnVoltage")
    star.write(tmp_path / "dark.star", file)
    with pytest.raises(StarError, match="no usable _rlnVoltage"):
        read_particles(tmp_path / "dark.star", tmp_path)
    file = star.read(tmp_path / "particles.star")
    file["optics"].set("rlnImageSize", ["nan"] * 2)
    star.write(tmp_path / "size.star", file)
    with pytest.raises(StarError, match='rlnImageSize of optics group 1 is "nan", not a whole number'):
        read_particles(tmp_path / "size.star", tmp_path)
    star.write(tmp_path / "mics.star", {"micrographs": Table({"rlnMicrographName": ["a.mrc"]})})
    with pytest.raises(StarError, match="no particles"):
        read_particles(tmp_path / "mics.star", tmp_path)


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    make_project(tmp_path)
    stack, _ = mrc.read_stack(tmp_path / "Extract/s1.mrcs")
    stack[2, 3, 3] = np.nan
    mrc.write_stack(tmp_path / "Extract/s1.mrcs", stack, 2.0)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    table.read_images([0, 1, 2])
    with pytest.raises(MrcError, match=r"000003@Extract/s1.mrcs has pixels that are not numbers"):
        table.read_images(range(12))


def test_pixels_whose_sum_is_beyond_all_numbers_are_numbers(tmp_path):
    make_project(tmp_path)
    stack = np.full((6, 8, 8), 1e38, np.float32)
    mrc.write_stack(tmp_path / "Extract/s1.mrcs", stack, 2.0)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    np.testing.assert_array_equal(table.read_images([1, 3]), stack[:2])


@pytest.mark.parametrize("pieces", ["of one image", "of two images"])
def test_stacks_read_in_pieces_give_the_same_images(tmp_path, monkeypatch, pieces):
    images = make_project(tmp_path)
    table = read_particles(tmp_path / "particles.star", tmp_path)
    monkeypatch.setattr("relion_py.compute.io.particles.READ_MIB", {"of one image": 0.0, "of two images": 5e-4}[pieces])
    wanted = [11, 0, 7, 2, 1, 9, 4]
    np.testing.assert_array_equal(table.read_images(wanted), images[wanted])


# --------------------------------------------------------------------------- older releases


@pytest.mark.req("E1")
def test_conversion_agrees_with_debians_relion(tmp_path, shared, unpacked, debian_relion):
    """relion_convert_star is the witness for optics groups, pixel sizes and origins in A."""
    tiny = shared / "data/real/tiny-stacks"
    for name, packed in (
        ("empiar_10076_7.star", "empiar_10076_7.mrc.gz"),
        ("sta_testing_bin8.star", "ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs.gz"),
    ):
        unpacked(tiny / packed)
        (tmp_path / "old.star").write_bytes((tiny / name).read_bytes())
        subprocess.run(
            [debian_relion("relion_convert_star"), "--i", "old.star", "--o", "new.star"],
            cwd=tmp_path,
            capture_output=True,
            check=True,
            timeout=60,
        )
        theirs = star.read(tmp_path / "new.star")
        ours = read_particles(tmp_path / "old.star", tmp_path)
        assert ours.converted
        for block, table in (("optics", ours.optics), ("particles", ours.particles)):
            # Debian's release takes no images from a stack called .mrc, so it cannot tell that box
            sizes = {"rlnImageSize", "rlnImageDimensionality"} if packed.endswith(".mrc.gz") else set()
            assert set(theirs[block].labels) == set(table.labels) - sizes
            for label in theirs[block].labels:
                if labels.type_of(label) in ("double", "int"):
                    np.testing.assert_allclose(table.floats(label), theirs[block].floats(label), rtol=2e-6)
                else:
                    assert table.strings(label) == theirs[block].strings(label)


def test_origins_in_pixels_become_angstrom(tmp_path, shared, debian_relion):
    """Two settings of the microscope become two optics groups, in the order in which they appear."""
    old = Table(
        {
            "rlnImageName": [f"{i + 1}@x.mrcs" for i in range(4)],
            "rlnVoltage": [300.0, 200.0, 300.0, 200.0],
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnDetectorPixelSize": [5.0, 14.0, 5.0, 14.0],
            "rlnMagnification": [50000.0, 70000.0, 50000.0, 70000.0],
            "rlnOriginX": [1.0, 2.0, 3.0, -4.0],
            "rlnOriginY": [0.5, 0.5, 0.5, 0.5],
        },
        comments=(),
    )
    star.write(tmp_path / "old.star", {"": old})
    mrc.write_stack(tmp_path / "x.mrcs", np.ones((4, 6, 6), np.float32), 1.0)
    table = read_particles(tmp_path / "old.star", tmp_path)
    assert [(g.number, g.voltage, g.pixel_size, g.box_size) for g in table.optics_groups] == [
        (1, 300.0, 1.0, 6),
        (2, 200.0, 2.0, 6),
    ]
    assert table.ints("rlnOpticsGroup").tolist() == [1, 2, 1, 2]
    assert table.floats("rlnOriginXAngst").tolist() == [1.0, 4.0, 3.0, -8.0]
    assert "rlnOriginX" not in table
    subprocess.run(
        [debian_relion("relion_convert_star"), "--i", "old.star", "--o", "new.star"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=60,
    )
    theirs = star.read(tmp_path / "new.star")
    assert theirs["particles"].floats("rlnOriginXAngst").tolist() == [1.0, 4.0, 3.0, -8.0]
    assert theirs["optics"].floats("rlnImagePixelSize").tolist() == [1.0, 2.0]


def test_origins_without_a_pixel_size_are_an_error(tmp_path):
    star.write(tmp_path / "x.star", {"": Table({"rlnImageName": ["1@x.mrcs"], "rlnOriginX": [1.0]})})
    with pytest.raises(StarError, match="_rlnMagnification"):
        read_particles(tmp_path / "x.star", tmp_path)


def test_real_particle_files_open(shared):
    project = shared / "data/real/bgal-10204-relion5-project"
    table = read_particles(project / "derived/particles_with_tutorial_poses.star", project)
    assert len(table) == 1125
    images = table.read_images(range(0, 1125, 100))
    assert images.shape == (12, 64, 64)
    assert 0.5 < images.std() < 2
    tiny = shared / "data/real/tiny-stacks"
    six = read_particles(tiny / "relion31.6opticsgroups.star")
    assert len(six.optics_groups) == 6
    assert six.group_index.max() == 5


def test_every_known_label_has_a_type(shared):
    lines = (shared / "reference/metadata_labels.tsv").read_text().splitlines()[1:]
    known = [line.split("\t")[0] for line in lines]
    assert len(known) >= 400
    assert set(known) <= set(labels._TYPES)
    assert labels.type_of("rlnImageName") == "string"
    assert labels.type_of("rlnVoltage") == "double"
    assert labels.type_of("rlnOpticsGroup") == "int"
    assert labels.type_of("somethingElse") == "string"
