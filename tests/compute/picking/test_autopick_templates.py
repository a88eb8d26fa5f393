"""relion_autopick with references as a program: RELION 3.1.3 as a witness, its files, ranks, continuing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import exit_status
from micrograph_list import write_input
from turned_particles import particle, turned_micrograph

from relion_py.compute.cli import autopick
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_stack, write_map, write_stack
from relion_py.compute.io.spider import read_spider
from relion_py.compute.io.star import StarFile, Table

MPIRUN = Path(sys.executable).parent / "mpirun"
MINE, THEIRS = "AutoPick/job003/", "AutoPick/theirs/"
REFS = "--ref refs.star --invert --particle_diameter 52 --ang 30 --min_distance 40 --threshold 0.3"
LABELS = ["rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAutopickFigureOfMerit", "rlnAnglePsi"]


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A project with micrographs a (square) and b (oblong), 2 A per pixel, and references; name -> x, y, psi."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("Raw")
    found = {}
    for seed, (name, shape) in enumerate({"a": (240, 240), "b": (200, 240)}.items()):
        image, found[name] = turned_micrograph(shape, seed)
        write_map(f"Raw/{name}.mrc", image, 2.0)
    write_input(["Raw/a.mrc", "Raw/b.mrc"], (9000.0, 8000.0))
    write_stack("refs.mrcs", np.stack([particle(), particle().T]).astype(np.float32), 2.0)
    images = Table({"rlnReferenceImage": ["000001@refs.mrcs", "000002@refs.mrcs"]})
    star.write("refs.star", StarFile([("", images)]))
    return found


def words(options: str, odir: str = MINE) -> list[str]:
    os.makedirs(odir, exist_ok=True)
    return ["--i", "micrographs.star", "--odir", odir, "--pickname", "autopick", *options.split()]


def run(options: str = f"{REFS} --shrink 0 --lowpass 9", status: int = 0) -> None:
    """The program in this process."""
    assert exit_status(autopick.main, *words(options)) == status


def run_theirs(program: str, options: str) -> None:
    subprocess.run([program, *words(options, THEIRS)], check=True, capture_output=True, timeout=120)


def picks(name: str, odir: str = MINE) -> np.ndarray:
    """Columns of LABELS (N, 5)."""
    table = star.read(f"{odir}Raw/{name}_autopick.star")[""]
    assert table.labels == LABELS
    return np.stack([table.floats(label) for label in LABELS], 1)


@pytest.mark.parametrize(
    "options",
    [
        f"{REFS} --shrink 0 --lowpass 9",
        f"{REFS} --shrink 0.5 --lowpass 6 --highpass 120 --ctf",
        f"{REFS} --ang 40 --ctf --ctf_intact_first_peak --shrink_particle_mask 4 --min_distance 20 --skip_side 10",
        "--ref gauss --gauss_max 1 --invert --particle_diameter 40 --shrink 0 --lowpass 9 --threshold 0.4",
        "--ref refs.mrcs --angpix_ref 2.5 --invert --particle_diameter 60 --ang 60 --lowpass 10 --shrink 150",
    ],
)
def test_maps_and_picks_as_relion_makes_them(
    truth: dict[str, np.ndarray], debian_relion: Callable[[str], str], options: str
) -> None:
    """RELION 3.1.3's maps, but for the factor that its random noise makes; from its maps, exactly its picks.

    It reads references off by linear interpolation on a coarser grid, and gives no weight to that.
    """
    write_input(["Raw/a.mrc"], (9000.0, 8000.0))
    run(f"{options} --write_fom_maps")
    run_theirs(debian_relion("relion_autopick"), f"{options} --write_fom_maps")
    maps = {path.name for path in Path(THEIRS).rglob("*.spi")}
    assert maps == {path.name for path in Path(MINE).rglob("*.spi")}
    for name in maps:
        mine, other = read_spider(f"{MINE}Raw/{name}"), read_spider(f"{THEIRS}Raw/{name}")
        if name.endswith("Noise.spi"):
            np.testing.assert_allclose(mine, other, atol=2e-5)
        elif name.endswith("CCF.spi"):
            ratios = [np.fromfile(f"{odir}Raw/{name}", "f4")[6] - 1 for odir in (MINE, THEIRS)]
            np.testing.assert_allclose(mine * ratios[0], other * ratios[1], atol=0.012 * np.abs(mine).max() * ratios[0])
            psi = name.replace("CCF", "PSI")
            high = other > 0.5 * other.max()
            turn = read_spider(f"{MINE}Raw/{psi}")[high] - read_spider(f"{THEIRS}Raw/{psi}")[high]
            assert np.mean(np.abs(turn) < 0.1) > 0.95
    first = picks("a")
    for path in Path(THEIRS).rglob("*.spi"):
        Path(f"{MINE}Raw/{path.name}").write_bytes(path.read_bytes())
    run(f"{options} --read_fom_maps")
    mine, other = picks("a"), picks("a", THEIRS)
    assert len(first) > 5
    np.testing.assert_allclose(mine, other, atol=2e-5)


def test_relion_picks_from_our_maps(truth: dict[str, np.ndarray], debian_relion: Callable[[str], str]) -> None:
    write_input(["Raw/a.mrc"], (9000.0, 8000.0))
    options = f"{REFS} --shrink 0 --lowpass 9"
    run(f"{options} --write_fom_maps")
    os.makedirs(f"{THEIRS}Raw")
    for path in Path(MINE).rglob("*.spi"):
        Path(f"{THEIRS}Raw/{path.name}").write_bytes(path.read_bytes())
    run_theirs(debian_relion("relion_autopick"), f"{options} --read_fom_maps")
    np.testing.assert_allclose(picks("a"), picks("a", THEIRS), atol=2e-5)


def test_known_places(truth: dict[str, np.ndarray]) -> None:
    run()
    for name, known in truth.items():
        found = picks(name)
        distance = np.hypot(known[:, 0, None] - found[:, 0], known[:, 1, None] - found[:, 1])
        assert len(found) == len(known) and distance.min(1).max() < 4
        assert set(found[:, 2]) <= {1, 2}
    summary = star.read(f"{MINE}summary.star")[""]
    assert summary.ints("rlnGroupNrParticles").tolist() == [len(known) for known in truth.values()]
    assert Path(f"{MINE}logfile.pdf").read_bytes()[:5] == b"%PDF-"


def test_references_of_an_odd_box_pick_the_same(truth: dict[str, np.ndarray]) -> None:
    """Scaled to another pixel size, their centre stays that of the particle."""
    options = "--ref refs.mrcs --angpix_ref 2.5 --invert --particle_diameter 60 --ang 60 --lowpass 10 --shrink 0"
    run(options)
    expected = picks("a")
    images, pixel_size = read_stack(Path("refs.mrcs"))
    write_stack("refs.mrcs", np.pad(images, ((0, 0), (0, 1), (0, 1)), mode="edge"), pixel_size)
    run(options)
    assert len(expected) > 5
    np.testing.assert_allclose(picks("a"), expected, atol=1e-4)


def test_thresholds(truth: dict[str, np.ndarray]) -> None:
    """A higher threshold takes away; so do limits of the noise."""
    run()
    counts = [len(picks("a"))]
    for threshold in np.quantile(picks("a")[:, 3], (0.3, 0.7)):
        run(f"{REFS} --shrink 0 --lowpass 9 --threshold {threshold}")
        assert (picks("a")[:, 3] >= threshold - 1e-6).all()
        counts.append(len(picks("a")))
    assert counts[0] > counts[1] > counts[2] > 0
    run(f"{REFS} --shrink 0 --lowpass 9 --write_fom_maps")
    everything = len(picks("a"))
    deviation = read_spider(f"{MINE}Raw/a_autopick_stddevNoise.spi")
    for limit in (f"--max_stddev_noise {np.median(deviation)}", "--min_avg_noise 0"):
        run(f"{REFS} --shrink 0 --lowpass 9 --read_fom_maps {limit}")
        assert 0 < len(picks("a")) < everything


def test_a_map_as_reference(truth: dict[str, np.ndarray]) -> None:
    """The particle as a flat slab: seen along z it is the particle itself."""
    volume = np.zeros((32, 32, 32), np.float32)
    volume[15:17] = particle() / 2
    write_map("map.mrc", volume, 2.0)
    options = "--invert --particle_diameter 52 --ang 30 --min_distance 40 --shrink 0 --lowpass 9 --threshold 0.4"
    run(f"--ref map.mrc --healpix_order 1 --sym C1 {options}")
    known, found = truth["a"], picks("a")
    distance = np.hypot(known[:, 0, None] - found[:, 0], known[:, 1, None] - found[:, 1])
    assert np.mean(distance.min(1) < 5) > 0.9 and len(found) < 1.2 * len(known)
    stack, angpix = read_stack(f"{MINE}reference_projections.mrcs")
    assert stack.shape == (48, 32, 32) and angpix == pytest.approx(2.0)
    assert found[:, 2].max() <= 48


def test_unusable_micrographs_are_listed(truth: dict[str, np.ndarray]) -> None:
    Path("Raw/short.mrc").write_bytes(Path("Raw/a.mrc").read_bytes()[:3000])
    write_map("Raw/flat.mrc", np.ones((240, 240), np.float32), 2.0)
    write_input(["Raw/a.mrc", "Raw/short.mrc", "Raw/flat.mrc", "Raw/gone.mrc", "Raw/b.mrc"], (9000.0, 8000.0))
    run()
    table = star.read(f"{MINE}failed_micrographs.star")["failed"]
    assert set(table.strings("rlnMicrographName")) == {"Raw/short.mrc", "Raw/flat.mrc", "Raw/gone.mrc"}
    assert len(star.read(f"{MINE}autopick.star")["coordinate_files"]) == 2


def test_continuing_does_what_is_left(truth: dict[str, np.ndarray]) -> None:
    write_input(["Raw/a.mrc"], (9000.0, 8000.0))
    run()
    stamp = os.stat(f"{MINE}Raw/a_autopick.star").st_mtime_ns
    write_input(["Raw/a.mrc", "Raw/b.mrc"], (9000.0, 8000.0))
    run(f"{REFS} --shrink 0 --lowpass 9 --only_do_unfinished")
    assert os.stat(f"{MINE}Raw/a_autopick.star").st_mtime_ns == stamp
    assert len(star.read(f"{MINE}autopick.star")["coordinate_files"]) == 2


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun is not installed")
def test_ranks_give_the_same_files(truth: dict[str, np.ndarray]) -> None:
    run()
    alone = {name: picks(name) for name in truth}
    environment = {**os.environ, "OMPI_MCA_rmaps_base_oversubscribe": "1", "NUMBA_NUM_THREADS": "1"}
    program = [str(MPIRUN), "-n", "2", sys.executable, "-m", "relion_py.compute.cli.autopick"]
    options = words(f"{REFS} --shrink 0 --lowpass 9", THEIRS)
    done = subprocess.run([*program, *options], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, mine in alone.items():
        np.testing.assert_array_equal(picks(name, THEIRS), mine)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--ref gone.star", "gone.star"),
        (f"{REFS} --ang 0", "--ang must"),
        (f"{REFS} --shrink -1", "--shrink must"),
        (f"{REFS} --threshold inf", "--threshold must"),
        (f"{REFS} --pad 0.5", "--pad must"),
        (f"{REFS} --helix", "--helical_tube_outer_diameter must"),
        (f"{REFS} --amyloid", "--amyloid needs --helix"),
        (f"{REFS} --read_fom_maps", "run once with --write_fom_maps"),
        ("--ref gauss", "--particle_diameter"),
        (f"{REFS} --i Raw/*.mrc --angpix 2 --ctf", "--ctf needs a STAR file"),
    ],
)
def test_what_cannot_be_is_said(
    truth: dict[str, np.ndarray], options: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(options, status=1)
    assert part in capsys.readouterr().err
