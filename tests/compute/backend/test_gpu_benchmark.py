"""The benchmark of the expectation step runs: on the CPU, and on a device, emulated or real."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from relion_py.compute.backend.cuda_device import Share

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "refine_gpu.py"


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_every_stage_is_timed(backend: str, device, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("refine_gpu", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "refine_gpu", benchmark)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "open_devices", lambda *_: [Share(device, 1 << 29)])
    monkeypatch.setattr(
        benchmark, "STAGES", [benchmark.Stage("global", 0, 0.3, 0.6), benchmark.Stage("local", 1, 0.3, 0.6, True)]
    )
    words = f"refine_gpu.py --backend {backend} --box 32 --particles 10 --classes 2 --stages 1 2"
    monkeypatch.setattr(sys, "argv", words.split())
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["global", "local"]
    assert all(float(line.split()[1]) > 0 and "sums" in line for line in lines[2:])
