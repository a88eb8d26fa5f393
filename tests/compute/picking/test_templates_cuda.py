"""Picking with references on a device gives what it gives on the CPU: maps, picks, the program, small memories."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import emulated_device
import numpy as np
import pytest
from emulated_device import EmulatedDevice
from in_process import exit_status
from turned_particles import BOX, particle, turned_micrograph

from relion_py.compute.backend import cuda_device
from relion_py.compute.backend.cuda_device import Share, first_of_each
from relion_py.compute.cli import autopick
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map, write_stack
from relion_py.compute.picking import templates_cuda
from relion_py.compute.picking.micrograph import geometry_of
from relion_py.compute.picking.references import References, squared_distance
from relion_py.compute.picking.templates import Match, Matcher, TemplateSettings
from relion_py.compute.picking.templates_cuda import CudaMatcher, CudaMatching

MPIRUN = Path(sys.executable).parent / "mpirun"
CTF = CtfParams(np.array([12000.0]), np.array([10500.0]), np.array([25.0]))
GIB = 1 << 30


def two_references() -> References:
    images = np.stack([particle(), -0.7 * particle().T]) * (squared_distance(BOX) < 13**2)
    return References(-images.astype(np.float32), 13, 52.0)


def matched(matcher: Matcher, image: np.ndarray) -> list[Match]:
    """All references; the micrograph is kept."""
    started = matcher.start(image.copy(), CTF, 5)
    return list(started.match(started.noise(matcher.noise_mask)))


def assert_same(found: list[Match], wanted: list[Match]) -> None:
    """Figures of merit to 1e-4, and angles wherever one is better than the others."""
    assert len(found) == len(wanted) == 2
    for ours, right in zip(found, wanted, strict=True):
        assert ours.merit.dtype == ours.psi.dtype == np.float32
        np.testing.assert_allclose(ours.merit, right.merit, atol=1e-4 * max(1.0, right.merit.max()))
        assert np.mean(ours.psi == right.psi) > 0.999
        assert ours.expected == pytest.approx(right.expected, rel=1e-5)
    assert wanted[0].merit.max() > 0.5


def prepared(device, image: np.ndarray, how: TemplateSettings, budget: int = GIB) -> tuple[CudaMatcher, Matcher]:
    """The references ready for this micrograph, on the device and on the CPU."""
    geometry = geometry_of(image.shape, 2.0, how, how.margin)
    references = two_references()
    there = CudaMatching(device, budget).matcher(references, geometry, how)
    return there, Matcher(references, geometry, how)


@pytest.mark.req("A1")
@pytest.mark.parametrize(
    "how",
    [
        TemplateSettings(psi_step=30, lowpass=9.0),
        TemplateSettings(psi_step=20, lowpass=9.0, shrink=0, ctf=True, highpass=80.0),
        TemplateSettings(psi_step=120, shrink=0.5, margin=6),  # an odd number of angles
        TemplateSettings(psi_step=360, lowpass=12.0, shrink=0),
    ],
)
def test_maps_are_those_of_the_cpu(device, how: TemplateSettings) -> None:
    image, _ = turned_micrograph((110, 132), seed=4)
    there, here = prepared(device, image, how)
    assert_same(matched(there, image), matched(here, image))
    assert_same(matched(there, image), matched(here, image))  # with what the first micrograph left on the device


def test_few_angles_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    how = TemplateSettings(psi_step=36, lowpass=9.0)
    device = EmulatedDevice()
    there, here = prepared(device, image, how)
    wanted = matched(here, image)
    assert_same(matched(there, image), wanted)
    assert device.launches.count("turned_products") == 2, "all five pairs of angles of a reference at once"
    there, _ = prepared(device, image, how)
    monkeypatch.setattr(templates_cuda, "_MOST_WORK", 2 * templates_cuda._BYTES_PER_PIXEL * 96 * 96)
    device.launches.clear()
    assert_same(matched(there, image), wanted)
    assert device.launches.count("turned_products") == 6, "two, two and one"
    monkeypatch.setattr(templates_cuda, "_KEPT_TABLES", 0)
    there.on_device(there.drop)
    assert_same(matched(there, image), wanted)
    assert not there._tables


def test_memory_that_is_too_small_halves_the_batch_and_is_told_in_the_end() -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    how = TemplateSettings(psi_step=36, lowpass=9.0)
    wanted = matched(prepared(EmulatedDevice(), image, how)[1], image)
    for fail_at in ((0,), (1,), (0, 1), (2,)):
        device = EmulatedDevice(fail_at=fail_at)
        assert_same(matched(prepared(device, image, how)[0], image), wanted)
        assert device.released == len(fail_at)
    device = EmulatedDevice(fail_at=tuple(range(20)))
    with pytest.raises(
        UserError, match=r"^the memory of GPU emulation is too small for transforms of 96 x 96 pixels: "
    ):
        matched(prepared(device, image, how)[0], image)


def test_a_transform_that_does_not_fit_is_made_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    device = EmulatedDevice()
    there, here = prepared(device, image, TemplateSettings(psi_step=36, lowpass=9.0))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(device.xp.fft, "rfft2", full)
    assert_same(matched(there, image), matched(here, image))
    assert device.released == 1


def test_references_are_transformed_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    device, refused = EmulatedDevice(), []
    there, here = prepared(device, image, TemplateSettings(psi_step=36, lowpass=9.0, ctf=True))
    wanted = matched(here, image)
    on_the_host = Matcher._unturned_reference
    monkeypatch.setattr(Matcher, "_unturned_reference", lambda *_: pytest.fail("a transform that is not needed"))
    assert_same(matched(there, image), wanted)

    def full(*_: object) -> None:
        refused.append(1)
        raise MemoryError

    monkeypatch.setattr(device.xp, "dot", full)
    monkeypatch.setattr(Matcher, "_unturned_reference", on_the_host)
    assert_same(matched(there, image), wanted)
    assert len(refused) == 2, "one a reference"


def test_a_request_to_stop_is_seen_between_batches() -> None:
    image, _ = turned_micrograph((96, 96), seed=4)
    there, _ = prepared(EmulatedDevice(), image, TemplateSettings(psi_step=36, lowpass=9.0))
    started, stop = there.start(image, None, 0), threading.Event()
    stop.set()
    with pytest.raises(Aborted):
        next(started.match(started.noise(there.noise_mask), stop))


def test_the_first_device_of_each_rank() -> None:
    """RELION 5, autopicker_mpi.cpp (deviceInitialise): a rank uses one."""
    assert first_of_each("0,1:2,3") == "0:2"
    assert first_of_each(" 1 ") == "1"
    assert first_of_each("") == first_of_each("auto") == "auto"
    with pytest.raises(UserError, match=r"^--gpu must list"):
        first_of_each("0:x")


# ---- the program ----

OPTIONS = (
    "--ref refs.mrcs --invert --particle_diameter 52 --ang 30 --min_distance 40 --threshold 0.3 --shrink 0 --lowpass 9"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three micrographs of two sizes and two references, 2 A per pixel."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("Raw")
    for seed, (name, shape) in enumerate({"a": (192, 192), "b": (160, 192), "c": (192, 160)}.items()):
        write_map(f"Raw/{name}.mrc", turned_micrograph(shape, seed)[0], 2.0)
    write_stack("refs.mrcs", np.stack([particle(), particle().T]).astype(np.float32), 2.0)
    return tmp_path


def run(odir: str, more: str = "", status: int = 0) -> None:
    """The program in this process."""
    words = ["--i", "Raw/*.mrc", "--angpix", "2", "--odir", odir, *f"{OPTIONS} {more}".split()]
    assert exit_status(autopick.main, *words) == status


def assert_same_picks(ours: str, theirs: str) -> None:
    count = 0
    for name in "abc":
        found, right = (star.read(f"{odir}Raw/{name}_autopick.star")[""] for odir in (ours, theirs))
        for label in right.labels:
            tolerance = 1e-4 if label == "rlnAutopickFigureOfMerit" else 0
            np.testing.assert_allclose(found.floats(label), right.floats(label), atol=tolerance, err_msg=label)
        count += len(right)
    assert count > 15


@pytest.mark.req("A1")
def test_the_program_picks_on_a_gpu_what_it_picks_on_the_cpu(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device, opened = EmulatedDevice(), []

    def pretend(text: str, free_mb: int, comm: object) -> list[Share]:
        opened.append(text)
        return [Share(device, GIB)]

    monkeypatch.setattr(cuda_device, "open_devices", pretend)
    run("cpu/")
    assert not opened
    run("gpu/", "--gpu 1,0 --j 2")
    assert opened == ["1"] and device.launches.count("figures_of_merit") == 6
    assert "Rank 0 picks on GPU emulation" in capsys.readouterr().out
    assert_same_picks("gpu/", "cpu/")


PRETENDED = """
import sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv.pop(1))
from emulated_device import EmulatedDevice
from relion_py.compute.backend import cuda_device
from relion_py.compute.cli import autopick

class Numbered(EmulatedDevice):
    def __init__(self, cupy, number):
        super().__init__()
        self.name = f"number {number}"

    def limit(self, budget):
        assert budget == 1 << 30

cuda_device.CupyDevice = Numbered
runtime = SimpleNamespace(getDeviceCount=lambda: 6)
cuda_device.load_cupy = lambda: SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
autopick.main()
"""


@pytest.mark.req("A1")
@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun is not installed")
def test_ranks_share_out_the_devices(project: Path) -> None:
    run("cpu/")
    environment = {**os.environ, "OMPI_MCA_rmaps_base_oversubscribe": "1", "NUMBA_NUM_THREADS": "1"}
    words = [str(MPIRUN), "-n", "2", sys.executable, "-c", PRETENDED, str(Path(emulated_device.__file__).parent)]
    options = ["--i", "Raw/*.mrc", "--angpix", "2", "--odir", "gpu/", *OPTIONS.split(), "--gpu", "4,1:2"]
    done = subprocess.run([*words, *options], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Rank 0 picks on GPU number 4" in done.stdout and "Rank 1 picks on GPU number 2" in done.stdout
    assert_same_picks("gpu/", "cpu/")


@pytest.mark.req("A1")
@pytest.mark.gpu
def test_the_program_on_a_real_gpu(project: Path) -> None:
    try:
        cuda_device.load_cupy()
    except UserError as error:
        pytest.skip(str(error))
    run("cpu/")
    run("gpu/", "--gpu --j 2")
    assert_same_picks("gpu/", "cpu/")


@pytest.mark.req("A3")
def test_what_a_gpu_lacks_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for more, words in (
        ("--gpu 0", "--gpu needs CuPy"),
        ("--gpu gpu0", "--gpu must list the numbers of GPUs"),
    ):
        run("none/", more, status=1)
        assert words in capsys.readouterr().err
    assert not Path("none/autopick.star").exists()
