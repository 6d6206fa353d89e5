"""Weights that are kept, or made by many threads, are those that one thread makes anew."""

from __future__ import annotations

import pytest

from tests.small_models import MODELS

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.machine.watch import Seen, limits_of  # noqa: E402
from runtime.memory import Carver, aligned, element_type  # noqa: E402
from runtime.model import weights  # noqa: E402
from runtime.model.shapes import static_shapes  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402

MODEL = MODELS["shared experts, three matrices"]
KEYS = [(layer, expert) for layer in range(MODEL.n_moe_layers) for expert in range(MODEL.n_experts)]


def static(experts: Experts) -> torch.Tensor:
    carver = Carver(static_shapes(MODEL), element_type(MODEL))
    target = aligned(carver.n_bytes)
    experts.copy_static(carver.views(target))
    return target


@pytest.mark.parametrize("worth_bytes", [0, 1 << 60])
def test_threads_and_keeping_change_no_value(worth_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    anew, alone = static(Experts(MODEL, 3)), Experts(MODEL, 3)
    alone.require(KEYS)
    monkeypatch.setattr(weights, "_WORTH_THREADS_BYTES", worth_bytes)
    kept = Experts(MODEL, 3, keep_static=True)
    kept.require(KEYS)
    for target in (static(Experts(MODEL, 3)), static(kept), static(kept)):
        assert torch.equal(target, anew)
    assert all(torch.equal(kept[key], alone[key]) for key in KEYS)
    assert not torch.equal(static(Experts(MODEL, 4)), anew)


def test_kept_weights_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Experts(MODEL, keep_static=True)
    first = static(kept)
    kept.keep(KEYS)
    monkeypatch.setattr(weights, "_fill", lambda *_: pytest.fail("made again"))
    assert torch.equal(static(kept), first)
    target = aligned(MODEL.expert_bytes)
    kept.copy_to(target, KEYS[-1])
    assert torch.equal(target, kept[KEYS[-1]])


def test_no_more_is_kept_than_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = len(KEYS) * MODEL.expert_bytes
    for free, there in ((2 * wanted, True), (2 * wanted - 1, False)):
        monkeypatch.setattr(weights, "available_bytes", lambda free=free: free)
        experts = Experts(MODEL)
        experts.keep(KEYS)
        assert (KEYS[0] in experts._kept) is there


def test_a_failure_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room for the values")

    monkeypatch.setattr(weights, "_WORTH_THREADS_BYTES", 0)
    monkeypatch.setattr(weights, "_fill", fail)
    experts = Experts(MODEL)
    with pytest.raises(MemoryError):
        experts.require(KEYS)
    assert not experts._kept


@pytest.mark.parametrize(("n_cores", "quiet"), [(1, False), (2, False), (4, False), (16, True)])
def test_load_disturbs_by_its_share_of_the_machine(n_cores: int, quiet: bool) -> None:
    seen = Seen(foreign=0.2, steal=0.0, clock=1.0)
    assert (seen.disturbance(limits_of(n_cores)) is None) is quiet
    assert Seen(foreign=0.05, steal=0.02, clock=1.0).disturbance(limits_of(n_cores)) is None
