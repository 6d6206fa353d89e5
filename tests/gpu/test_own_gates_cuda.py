"""On a real CUDA device: a model whose own gates decide makes the same tokens under every design, and as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.microbench.live import live_samples  # noqa: E402
from tests.generated_runs import Generated  # noqa: E402
from tests.live_designs import AHEAD, CHANGING, CONVENTIONAL  # noqa: E402
from tests.pregated_models import seeded_model  # noqa: E402


@pytest.mark.parametrize(("top_k", "batch"), [(1, 1), (2, 3)])
def test_all_designs_make_the_tokens_of_the_resident_run(top_k: int, batch: int, tmp_path: Path) -> None:
    for lookahead, designs in {0: CONVENTIONAL, 1: AHEAD}.items():
        one = Generated(seeded_model(3, lookahead, top_k=top_k), batch, CudaBackend)
        for design in designs:
            one.agrees(one.asked(design))
        one.agrees(one.asked("on_demand", "ssd"), tmp_path)
        there = Generated(seeded_model(3, lookahead, top_k=top_k), batch, CpuBackend)
        assert np.allclose(one.resident.measured.states, there.resident.measured.states, atol=1e-2)


@pytest.mark.parametrize("design", CHANGING)
def test_other_experts_are_executed_the_same_again(design: str) -> None:
    one = Generated(seeded_model(3, top_k=2), make=CudaBackend)
    runs = [one.run(one.asked(design)) for _ in range(2)]
    assert runs[0].n_changed > 0
    assert runs[0].measured.digest == runs[1].measured.digest


def test_what_deciding_costs_is_measured() -> None:
    assert {one.what for one in live_samples(CudaBackend)} == {"decide"}
