"""Each CUDA kernel that stands alone, and that all of them compile."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.backend import kernel_sources
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.backend.kernels_numba import project
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.refine.images import DiscPixels, transform_images

FILES = kernel_sources.files()


def test_files_and_signatures_are_found() -> None:
    assert {path.stem for path in FILES} == {"images", "picking", "scores", "selection", "sums"}
    found = kernel_sources.signatures()
    assert len(found) == sum(path.read_text().count("\nKERNEL(") for path in FILES) > 15
    assert found["row_maxima"] == (
        kernel_sources.Parameter("scores", np.dtype(np.float32), True),
        kernel_sources.Parameter("columns", np.dtype(np.int32), False),
        kernel_sources.Parameter("total", np.dtype(np.int64), False),
        kernel_sources.Parameter("out", np.dtype(np.float32), True),
    )


def test_arguments_that_a_kernel_does_not_take_are_refused() -> None:
    scores, out = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    good = kernel_sources.arguments("row_maxima", [scores, 3, 2, out])
    assert [type(value) for value in good[1:3]] == [np.int32, np.int64]
    for bad in (
        [scores, 3, 2],
        [scores.astype(float), 3, 2, out],
        [scores[:, ::2], 3, 2, out],
        [scores, out, 2, out],
        [None, 3, 2, out],
    ):
        with pytest.raises(TypeError, match="row_maxima"):
            kernel_sources.arguments("row_maxima", bad)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nvcc_compiles_every_file(path: Path, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    words = [nvcc, "--ptx", "--Werror", "all-warnings", "-o", tmp_path / "out.ptx", path]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "out.ptx").read_text()
    names = [name for name in kernel_sources.signatures() if f"KERNEL({name}," in path.read_text()]
    assert names and all(f".entry {name}(" in text for name in names)


def test_nvrtc_compiles_all_as_cupy_does() -> None:
    """With NVIDIA's run-time compiler (nvidia-cuda-nvrtc-cu12), which needs no driver."""
    code = kernel_sources.whole_source().encode()
    for architecture in ("60", "70", "90"):
        ptx = _nvrtc(code, architecture)
        assert all(f".entry {name}(" in ptx for name in kernel_sources.signatures())


def _nvrtc(code: bytes, architecture: str) -> str:
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    places = [Path(p) / "lib" for p in (spec.submodule_search_locations or [])] if spec else []
    found = [library for place in places for library in place.glob("libnvrtc.so.*")]
    if not found:
        pytest.skip("there is no nvidia-cuda-nvrtc-cu12")
    nvrtc = ctypes.CDLL(str(found[0]))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture=compute_{architecture}".encode())
    status = nvrtc.nvrtcCompileProgram(program, 1, options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetPTX(program, ptx) == 0
    return ptx.value.decode()


@pytest.mark.parametrize("box", [32, 30])
@pytest.mark.parametrize("filled", ["mean", "noise"])
def test_images_are_prepared_as_on_the_cpu(device, box: int, filled: str) -> None:
    rng = np.random.default_rng(1)
    images = rng.standard_normal((5, box, box)).astype(np.float32) + 1.0
    shift = rng.integers(-box, box, (5, 2))
    shift[:3] //= 8
    noise = rng.standard_normal(images.shape).astype(np.float32) if filled == "noise" else None
    pixels = DiscPixels.of_size(box - 6)
    arguments = (shift, rng.uniform(0.5, 2, 5), box * 0.3, 4.0, pixels)
    wanted = transform_images(images.copy(), *arguments, noise=noise)
    with CudaBackend(device) as backend:
        unmasked, masked, spectrum, means = backend.transform_images(images, *arguments, noise)
        ours = backend.to_host(unmasked), backend.to_host(masked), spectrum, means
    for found, right in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=3e-6 * np.abs(right).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"intact_first_peak": True},
        {"intact_after_first_peak": True},
        {"absolute": True},
        {"only_flip_phases": True},
        {"damping": False},
        {"magnification": [[1.02, 0.01], [-0.02, 0.99]]},
    ],
)
def test_ctfs_are_those_of_the_cpu(device, options: dict) -> None:
    params = CtfParams(
        np.array([5000.0, 21000.0, 35000.0]), np.array([4500.0, 20000.0, 36000.0]), np.array([10.0, -70.0, 45.0]),
        phase_shift=np.array([0.0, 30.0, 90.0]), bfactor=np.array([0.0, 50.0, 0.0]), scale=np.array([1.0, 0.7, 1.0]),
    )  # fmt: skip
    pixels = DiscPixels.of_size(120)
    offset = 0.3 * np.cos(np.arange(pixels.size)) if not options else None
    wanted = ctf_values(params, pixels.kx, pixels.ky, 128, 1.1, gamma_offset=offset, **options)
    with CudaBackend(device) as backend:
        found = backend.to_host(
            backend.ctf_values(params, pixels.kx, pixels.ky, 128, 1.1, gamma_offset=offset, **options)
        )
    # where a sign or a limit changes within rounding, the two may lie on either side
    off = np.abs(found - wanted) > 2e-5
    assert off.mean() < 1e-4


@pytest.mark.parametrize("depth", [35, 3])
def test_projections_are_those_of_the_cpu(device, depth: int) -> None:
    rng = np.random.default_rng(2)
    volume = (rng.standard_normal((depth, 35, 18)) + 1j * rng.standard_normal((depth, 35, 18))).astype(np.complex64)
    angles = rng.uniform(0, 2 * np.pi, 6)
    rotations = np.zeros((6, 3, 3), np.float32)
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angles)
    rotations[:, 0, 1], rotations[:, 1, 0], rotations[:, 2, 2] = np.sin(angles), -np.sin(angles), 1
    if depth > 3:
        rotations = np.linalg.qr(rng.standard_normal((6, 3, 3)))[0].astype(np.float32)
    pixels = DiscPixels.of_size(20)  # some pixels lie beyond the transform
    wanted = np.empty((6, pixels.size), np.complex64)
    project(volume, rotations, pixels.kx, pixels.ky, np.float32(2), np.float32(16), wanted)
    assert (wanted == 0).any() and (wanted != 0).any()
    with CudaBackend(device) as backend:
        there = backend.to_device
        out = backend.xp.empty(wanted.shape, np.complex64)
        axes = there(2 * rotations[:, :2].reshape(-1, 6))
        backend._launch(
            "project_rows", out.size, there(volume), depth, 35, 18, there(np.zeros(3, np.int32)), 2, axes,
            there(pixels.kx), there(pixels.ky), pixels.size, 16.0, out.size, out,
        )  # fmt: skip
        np.testing.assert_allclose(backend.to_host(out), wanted, atol=2e-5)


def test_images_are_shifted_as_by_the_definition(device) -> None:
    rng = np.random.default_rng(3)
    pixels = DiscPixels.of_size(40)
    images = (rng.standard_normal((3, pixels.size)) + 1j * rng.standard_normal((3, pixels.size))).astype(np.complex64)
    rows, x, y = np.array([2, 0, 0, 1], np.int32), rng.uniform(-9, 9, 4), rng.uniform(-9, 9, 4)
    turn = np.exp(-2j * np.pi * (x[:, None] * pixels.kx + y[:, None] * pixels.ky) / 48)
    with CudaBackend(device) as backend:
        there = backend.to_device
        rows_there, kx, ky = there(rows), there(pixels.kx), there(pixels.ky)
        found = backend.to_host(backend.shift_rows(there(images), rows_there, there(x), there(y), kx, ky, 48))
    np.testing.assert_allclose(found, images[rows] * turn, atol=3e-6)
