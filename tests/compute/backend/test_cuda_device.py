"""--gpu: which devices a rank gets, what is said when that cannot be, and whole runs on emulated devices."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from emulated_device import EmulatedDevice
from strict_arrays import xp

from relion_py.compute.backend import cuda_device, kernel_sources
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.backend.cuda_device import CupyDevice, Share, bytes_of_maps, devices_of_rank, open_devices
from relion_py.compute.cli import refine
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.parallel.comm import SerialComm
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.simulate import simulate_particles


@pytest.fixture(autouse=True)
def _pretended_devices_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that `_cupy` makes compute nothing, so they cannot be tried out."""
    tried = cuda_device.try_out
    monkeypatch.setattr(
        cuda_device,
        "try_out",
        lambda d: None if isinstance(d.xp, SimpleNamespace) and not hasattr(d.xp, "fft") else tried(d),
    )


@pytest.mark.req("A3")
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", [(0,), (0,), (0,), (0,)]),
        ("0:1", [(0,), (1,), (0,), (1,)]),
        ("0,1:2,3", [(0, 1), (2, 3), (0, 1), (2, 3)]),
        ("0,0,1,1:3", [(0, 1), (3,), (0, 1), (3,)]),  # RELION names a device once per thread
        (" 2 : 1 ", [(2,), (1,), (2,), (1,)]),
        ("", [(0,), (1,), (2,), (3,)]),
        ("auto", [(0,), (1,), (2,), (3,)]),
    ],
)
def test_a_list_says_what_each_rank_computes_on(text: str, wanted: list) -> None:
    assert [devices_of_rank(text, rank, rank, 4) for rank in range(4)] == wanted


def test_ranks_without_a_list_are_spread_on_each_machine() -> None:
    assert [devices_of_rank("", rank, local, 2) for rank, local in enumerate((0, 1, 2, 0, 1))] == [
        (0,), (1,), (0,), (0,), (1,),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["x", "0;1", "0,,1", "0:", "-1", "1.5", "0 1"])
def test_what_is_no_list_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"^--gpu must list the numbers of GPUs, such as .*\.$"):
        devices_of_rank(text, 0, 0, 4)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"^--gpu 0:2 names GPU 2, but only GPUs 0 to 1 are there"):
        devices_of_rank("0:2", 1, 1, 2)
    with pytest.raises(UserError, match="but only GPU 0 is there"):
        devices_of_rank("1", 0, 0, 1)


def _cupy(count: int = 2, free: int = 8 << 30, capability: str = "70") -> SimpleNamespace:
    """As much of CuPy as opening a device takes; `modules` collects what was compiled."""
    modules, limits = [], []

    class Device:
        compute_capability = capability

        def __init__(self, number: int) -> None:
            self.number = number

        def use(self) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            pass

    def raw_module(code: str) -> SimpleNamespace:
        modules.append(code)
        return SimpleNamespace(get_function=lambda name: name)

    runtime = SimpleNamespace(
        getDeviceCount=lambda: count,
        getDeviceProperties=lambda number: {"name": b"NVIDIA Test"},
        memGetInfo=lambda: (free, 2 * free),
    )
    memory = SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {}))
    pool = SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, set_limit=lambda size: limits.append(size))
    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=runtime, memory=memory, Device=Device), RawModule=raw_module, modules=modules,
        limits=limits, get_default_memory_pool=lambda: pool,
    )  # fmt: skip


class _Ranks(SerialComm):
    """The second of two ranks on this machine, as far as opening a device goes."""

    rank, size = 1, 2

    def __init__(self, first: object) -> None:
        super().__init__()
        self.first = first

    def allgather(self, value: object) -> list:
        host = socket.gethostname()
        return [host if isinstance(value, str) else (host, self.first), value]


def test_ranks_on_one_device_share_its_memory() -> None:
    cupy = _cupy()
    (alone,) = open_devices("", 0, SerialComm(), cupy)
    assert alone.device.name == "0 (NVIDIA Test)" and alone.budget == 8 << 30
    assert cupy.modules == [kernel_sources.whole_source()]
    (spread,) = open_devices("", 0, _Ranks((0,)), cupy)
    assert spread.device.name == "1 (NVIDIA Test)" and spread.budget == 8 << 30
    (shared,) = open_devices("0", 1024, _Ranks((0,)), cupy)
    assert shared.budget == 7 << 29, "half of what is left when 1 GB stays free"
    assert cupy.limits == [8 << 30, 8 << 30, 7 << 29], "CuPy keeps no more than that either"
    assert [share.device.name[0] for share in open_devices("0,1", 0, SerialComm(), cupy)] == ["0", "1"]


@pytest.mark.parametrize(
    ("cupy", "words"),
    [
        (_cupy(free=300 << 20), "GPU 0 .NVIDIA Test. has 300 MB free for 2 rank"),
        (_cupy(capability="52"), "GPU 0 .NVIDIA Test. is too old: compute capability 6.0 .Pascal. or newer"),
    ],
)
def test_a_device_that_will_not_do_is_told(cupy: SimpleNamespace, words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}.*\\.$"):
        open_devices("0", 0, _Ranks((0,)), cupy)


@pytest.mark.req("A3")
def test_without_cupy_or_a_driver_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(UserError, match=r"^--gpu needs CuPy, .*pip install 'cupy-cuda12x\[ctk\]' .*\.$"):
        open_devices("", 0, SerialComm())
    cupy = _cupy()

    def no_driver() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    cupy.cuda.runtime.getDeviceCount = no_driver
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(UserError, match=r"^--gpu needs an NVIDIA GPU and its driver, .*InsufficientDriver.*\.$"):
        open_devices("", 0, SerialComm())
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(UserError, match=r"^--gpu needs an NVIDIA GPU, and none is visible"):
        open_devices("", 0, SerialComm())


@pytest.mark.req("A3")
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("asarray", "Failure finding .libnvrtc.so.12."),
        ("products", "libcublas.so.12: cannot open"),
        ("rfft2", "libcufft.so.11: cannot open"),
    ],
)
def test_a_library_that_is_missing_is_told(missing: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy loads them when they are used, and raises errors of several types, of several lines."""
    device = EmulatedDevice()
    device.use()
    cuda_device.try_out(device)

    def fail(*_: object, **__: object) -> None:
        raise {"rfft2": ImportError, "products": ImportError, "asarray": RuntimeError}[missing](
            {"asarray": 'Failure finding "libnvrtc.so.12":\n no such file', "products": "libcublas.so.12: cannot open",
             "rfft2": "libcufft.so.11: cannot open"}[missing]
        )  # fmt: skip

    owner = {"asarray": xp, "products": device, "rfft2": xp.fft}[missing]
    monkeypatch.setattr(owner, missing, fail)
    with pytest.raises(UserError, match=rf"^--gpu: CUDA does not work on GPU emulation \({words}.*\[ctk\]' .*\.$"):
        cuda_device.try_out(device)


def test_a_device_that_another_program_holds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From CUDA 12 on a context is made when a device becomes the current one."""
    cupy = _cupy()

    def busy(self: object) -> None:
        raise RuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(cupy.cuda.Device, "use", busy)
    with pytest.raises(UserError, match=r"^--gpu: CUDA does not work on GPU 0 \(NVIDIA Test\) \(cudaErrorDevices.*\.$"):
        CupyDevice(cupy, 0)


def test_tensor_cores_are_given_what_cublas_wants() -> None:
    """cuBLAS sees matrices by columns: its arguments say the product that NumPy's arrays mean."""
    rng = np.random.default_rng(0)
    a, b, out = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (7, 8), (5, 7)))

    def matrix(address: int, rows: int, columns: int, leading: int) -> np.ndarray:
        raw = (ctypes.c_float * (leading * columns)).from_address(address)
        return np.frombuffer(raw, np.float32).reshape(columns, leading).T[:rows]

    def gemm(handle, op_a, op_b, m, n, k, alpha, at_a, ta, lda, at_b, tb, ldb, beta, at_c, tc, ldc, kind, _) -> None:
        assert (handle, ta, tb, tc, kind) == (42, 0, 0, 0, 77)
        left = matrix(at_a, k, m, lda).T if op_a else matrix(at_a, m, k, lda)
        right = matrix(at_b, n, k, ldb).T if op_b else matrix(at_b, k, n, ldb)
        scale, old = (ctypes.c_float.from_address(x).value for x in (alpha, beta))
        result = matrix(at_c, m, n, ldc)
        result[...] = scale * (left @ right) + old * result

    class There:
        def __init__(self, array: np.ndarray) -> None:
            self.shape, self.data, self.array = array.shape, SimpleNamespace(ptr=array.ctypes.data), array

        def __len__(self) -> int:
            return self.shape[0]

    cupy = _cupy(capability="90")
    cupy.cuda.cublas = SimpleNamespace(gemmEx=gemm)
    cupy.cuda.device = SimpleNamespace(get_cublas_handle=lambda: 42)
    CupyDevice(cupy, 0).products(There(a), There(b), There(out), rough=True)
    np.testing.assert_allclose(out, a @ b.T, rtol=1e-5)


def test_too_little_memory_is_known_whoever_finds_it() -> None:
    """CuPy's allocator has an error of its own; sorting in Thrust raises what it is derived from."""
    cupy = _cupy()
    backend = CudaBackend(CupyDevice(cupy, 0))
    assert backend.out_of_memory(cupy.cuda.memory.OutOfMemoryError())
    assert backend.out_of_memory(MemoryError("std::bad_alloc"))
    assert not backend.out_of_memory(RuntimeError("cudaErrorIllegalAddress"))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("padding", [1, 2])
def test_the_estimate_is_what_the_arrays_take(dimensions: int, padding: int) -> None:
    volume = np.ones((20,) * dimensions)
    reference = FourierReference.from_map(volume, -1, padding)
    sums = BackProjector(20, -1, padding, ndim=dimensions)
    assert bytes_of_maps(20, 3, padding, dimensions) == 3 * (reference.data.nbytes + sums.grid.nbytes)


def test_cupy_has_what_the_backend_uses() -> None:
    """Runs where CuPy is installed, with or without a device."""
    cupy = pytest.importorskip("cupy")
    for name in vars(xp):
        assert hasattr(cupy, name), name
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    for name in ("getDeviceCount", "getDeviceProperties", "memGetInfo"):
        assert callable(getattr(cupy.cuda.runtime, name))
    for name in ("free_bytes", "used_bytes", "free_all_blocks"):
        assert callable(getattr(cupy.get_default_memory_pool(), name))
    assert callable(cupy.get_default_memory_pool().set_limit) and callable(cupy.cuda.device.get_cublas_handle)
    assert callable(cupy.fft.config.get_plan_cache) and callable(cupy.fft.rfft2)
    assert callable(CupyDevice.launch) and callable(cupy.RawModule) and callable(cupy.asnumpy)


# ---- whole runs ----

COMMAND = (
    "--i particles.star --ref reference.mrc --K 2 --iter 2 --firstiter_cc --ini_high 40 --sym D2 --ctf --norm --scale "
    "--zero_mask --flatten_solvent --particle_diameter 110 --healpix_order 0 --offset_range 3 --offset_step 2 --pad 1 "
    "--random_seed 1 --pool 8"
)
USUAL = COMMAND.split()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty particles of a D2 object."""
    root = tmp_path_factory.mktemp("gpu")
    simulate_particles(root, 40, box=32, angpix=5.0, symmetry="D2", seed=3, snr=0.3, reference_resolution=40.0)
    return root


def _run(project: Path, name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> Path:
    monkeypatch.chdir(project)
    (project / name).mkdir()
    assert refine.main([*USUAL, "--o", f"{name}/run", *words]) == 0
    return project / name


@pytest.mark.req("A1")
def test_a_classification_on_two_devices_is_that_of_the_cpu(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = _run(project, "cpu", monkeypatch)
    devices = [EmulatedDevice(tensor_cores=True), EmulatedDevice(tensor_cores=True)]
    opened = []

    def pretend(text: str, free_mb: int, comm: object) -> list[Share]:
        opened.append((text, free_mb))
        return [Share(device, 1 << 30) for device in devices]

    monkeypatch.setattr(cuda_device, "open_devices", pretend)
    threads, use = set(), EmulatedDevice.use

    def noted(self: EmulatedDevice) -> None:
        threads.add((devices.index(self), threading.get_ident()))
        use(self)

    monkeypatch.setattr(EmulatedDevice, "use", noted)
    # batches of eight, so that there is work for both
    monkeypatch.setattr("relion_py.compute.backend.cuda_arrays.MOST_WORK", 1)
    capsys.readouterr()
    found = _run(project, "gpu", monkeypatch, "--gpu", "--free_gpu_memory", "100")
    assert opened == [("auto", 100)]
    assert {number for number, _ in threads} == {0, 1} and len(threads) > 2
    assert all("sum_and_insert" in device.launches for device in devices)
    assert "Rank 0 computes on GPU emulation" in capsys.readouterr().out
    _assert_same_results(found, wanted)


def test_kept_poses_with_aberrations_and_noise_around_the_particles(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine adds to images and CTFs, and a device whose number is not 0."""
    monkeypatch.chdir(project)
    table = star.read("truth.star")
    for label, value in (
        ("rlnOddZernike", "[0.1,0.2,-0.3,0.2,0.1,0.4]"),
        ("rlnEvenZernike", "[0.1,0.02,-0.03,0.2,0.1,0.04,0.1,0.2,0.1]"),
        ("rlnMagMat00", "1.01"), ("rlnMagMat01", "0.01"), ("rlnMagMat10", "0.0"), ("rlnMagMat11", "0.99"),
    ):  # fmt: skip
        table["optics"].set(label, [value])
    star.write(project / "aberrated.star", table)
    words = [word for word in USUAL if word not in ("--zero_mask", "--firstiter_cc")]
    words[words.index("particles.star")] = "aberrated.star"
    words += ["--skip_align", "--iter", "1"]
    results = []
    for name, devices in (("kept_cpu", []), ("kept_gpu", [Share(EmulatedDevice(), 1 << 30)])):
        monkeypatch.setattr(cuda_device, "open_devices", lambda *_, devices=devices: devices)
        (project / name).mkdir()
        assert refine.main([*words, "--o", f"{name}/run", *(["--gpu", "3"] if devices else [])]) == 0
        results.append(np.array(mrcfile.read(project / name / "run_it001_class001.mrc")))
    np.testing.assert_allclose(results[1], results[0], atol=1e-4 * np.abs(results[0]).max())


@pytest.mark.req("A1")
@pytest.mark.gpu
def test_a_classification_on_a_real_device_is_that_of_the_cpu(
    project: Path, device: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(device, EmulatedDevice):
        pytest.skip("this is for a real device")
    wanted = _run(project, "cpu_too", monkeypatch)
    _assert_same_results(_run(project, "real", monkeypatch, "--gpu", "0"), wanted)


def _assert_same_results(found: Path, wanted: Path) -> None:
    """Poses and maps of the last iteration."""
    ours, theirs = (star.read(d / "run_it002_data.star")["particles"] for d in (found, wanted))
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnClassNumber"):
        np.testing.assert_allclose(ours.floats(label), theirs.floats(label), atol=1e-4)
    for k in (1, 2):
        maps = [mrcfile.read(d / f"run_it002_class{k:03d}.mrc") for d in (found, wanted)]
        np.testing.assert_allclose(maps[0], maps[1], atol=1e-3 * np.abs(maps[1]).max())


def test_what_fails_on_one_device_ends_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [EmulatedDevice(), EmulatedDevice(fail_at=tuple(range(200, 400)))]
    monkeypatch.setattr(cuda_device, "open_devices", lambda *_: [Share(device, 1 << 30) for device in devices])
    monkeypatch.setattr("relion_py.compute.backend.cuda_arrays.MOST_WORK", 1)
    monkeypatch.chdir(project)
    (project / "bad").mkdir()
    assert refine.main([*USUAL, "--o", "bad/run", "--gpu", "0,1"]) == 1


def test_an_auto_refinement_that_cannot_end_on_the_device_does_not_begin(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_device, "open_devices", lambda *_: [Share(EmulatedDevice(), 100_000)])
    monkeypatch.chdir(project)
    (project / "auto").mkdir()
    words = [word for word in USUAL if word not in ("--K", "2", "--iter")]
    words += ["--offset_step", "2", "--auto_refine", "--split_random_halves", "--o", "auto/run", "--gpu", "0"]
    assert refine.main(words) == 1
    assert "at the full image size, but a rank has" in capsys.readouterr().err


def test_the_program_says_what_gpu_lacks_before_it_reads_images(project: Path) -> None:
    """As a user meets it, in a process without CuPy."""
    code = "import sys; sys.modules['cupy'] = None; from relion_py.compute.cli.refine import main; sys.exit(main())"
    words = [sys.executable, "-c", code, *USUAL, "--o", "run", "--gpu", "0"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and "--gpu needs CuPy" in done.stderr and "Traceback" not in done.stderr


def test_the_program_refuses_what_is_no_list(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    assert refine.main([*USUAL, "--o", "run", "--gpu", "gpu0"]) == 1
    assert "--gpu must list the numbers of GPUs" in capsys.readouterr().err
