"""Experts in fewer bits: packed to the byte, near what they were, nearer the more bits they have."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.model.fewer_bits import PackedExpert, check_bits, pack_expert, packed_bytes, unpack  # noqa: E402
from runtime.model.weights import Experts, fill_expert  # noqa: E402
from tests.small_models import MODELS, decoder_only  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402
from traces.model.architecture import ModelArchitecture  # noqa: E402


def values(model: ModelArchitecture) -> torch.Tensor:
    memory = torch.zeros(model.expert_bytes, dtype=torch.uint8)
    fill_expert(memory, model, 3, (1, 2))
    return memory


def error(model: ModelArchitecture, bits: int) -> float:
    """Of an expert packed and unpacked, over its own size."""
    before, packed = values(model), torch.zeros(packed_bytes(model, bits), dtype=torch.uint8)
    scales, after = pack_expert(before, model, bits, packed), torch.zeros_like(before)
    unpack(PackedExpert(packed, scales), model, bits, after)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[model.expert_dtype.name]
    x, y = before.view(kind).float(), after.view(kind).float()
    return float((x - y).norm() / x.norm())


@pytest.mark.parametrize("name", MODELS)
def test_the_error_of_uniform_weights_is_that_of_evenly_spaced_levels(name: str) -> None:
    """A weight uniform over a width is off by its level's width over the root of 12: 2**-bits of its size."""
    model = MODELS[name]
    if model.expert_bias or model.expert_dtype.name != "fp32":
        pytest.skip("biases and norms are drawn otherwise")
    for bits in (1, 2, 4, 8):
        assert error(model, bits) == pytest.approx(2.0**-bits, rel=0.05)
    assert error(model, 16) < 2e-5


def test_half_precision_is_packed_too() -> None:
    model = decoder_only().with_dtype("bf16")
    assert error(model, 4) == pytest.approx(2.0**-4, rel=0.05)
    assert packed_bytes(model, 4) * 4 == model.expert_bytes


def test_levels_are_exact_where_weights_lie_on_them() -> None:
    model = decoder_only()
    flat = torch.tensor([-1.5, -0.5, 0.5, 1.5]).repeat(model.expert_bytes // 16)
    packed = torch.zeros(packed_bytes(model, 2), dtype=torch.uint8)
    scales, after = (
        pack_expert(flat.view(torch.uint8), model, 2, packed),
        torch.zeros(model.expert_bytes, dtype=torch.uint8),
    )
    unpack(PackedExpert(packed, scales), model, 2, after)
    assert torch.equal(after.view(torch.float32), flat)
    assert set(packed.tolist()) == {0b11100100}


def test_a_matrix_of_zeros_stays_small() -> None:
    model = decoder_only()
    packed = torch.zeros(packed_bytes(model, 8), dtype=torch.uint8)
    scales = pack_expert(torch.zeros(model.expert_bytes, dtype=torch.uint8), model, 8, packed)
    assert all(torch.isfinite(torch.tensor(scales)))


@pytest.mark.parametrize("bits", [3, 0.5, 32, 64])
def test_other_bits_are_refused_by_name(bits: float) -> None:
    with pytest.raises(InvalidInput, match=f"in {bits:g} bits: the runtime packs"):
        check_bits(decoder_only(), bits)


def test_experts_are_packed_once() -> None:
    experts = Experts(decoder_only())
    experts.pack([(0, 1), (0, 1), (1, 0)], 4)
    assert experts.in_bits((0, 1), 4) is experts.in_bits((0, 1), 4)
    assert len(experts.in_bits((2, 2), 4).packed) == packed_bytes(decoder_only(), 4)
