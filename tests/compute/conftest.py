"""The device that tests of what runs on GPUs run on: emulated here, and a real one with `pytest -m gpu`."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """What CudaBackend computes on."""
    if request.param == "emulated":
        from emulated_device import EmulatedDevice

        return EmulatedDevice()
    from relion_py.compute.backend.cuda_device import CupyDevice, load_cupy
    from relion_py.compute.errors import UserError

    try:
        real = CupyDevice(load_cupy(), 0)
    except UserError as error:
        pytest.skip(str(error))
    real.has_tensor_cores = False  # exact comparisons
    return real
