"""Designs that execute other experts than gates choose: their tokens are those of the model that executes these."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from offload.ops import OpKind  # noqa: E402
from offload.policies import policy_named  # noqa: E402
from offload.policy import BlockView, MissAction, Policy  # noqa: E402
from pregate.ask.capturing.capture import capture_request  # noqa: E402
from runtime.live.offloaded import GivenGuesses, OffloadedRun  # noqa: E402
from runtime.model.fewer_bits import unpack  # noqa: E402
from runtime.model.shapes import expert_shapes  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.pregated.transformer import ExpertLayer, GateChoice  # noqa: E402
from tests.generated_runs import PROMPTS, Generated, generated  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402


def skips_all(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Nothing is brought that is not there."""
    return dict.fromkeys(missing, MissAction.SKIP)


def skipping() -> Policy:
    """A cache that is filled ahead with what some expert is, and no fetch for what is missing."""
    return replace(policy_named("lru_next_gate+lru:6"), name="skips", on_miss=skips_all)


DESIGNS: list[tuple[int, str | Policy]] = [
    (1, "guess/next_gate:guessed"), (2, "on_demand+lru:8:resident"), (2, "on_demand+lru:6@skip=0.7:sensitivity=1/0.4"),
    (1, skipping()), (2, "mixed_precision:low=1:bits=2+lfu:4"), (2, "mixed_precision:low=1:bits=4:copies=0.3+lfu:8"),
    (2, "on_demand@layers=cpu:1-1@skip=0.6"),
]  # fmt: skip
MORE: list[tuple[int, str | Policy]] = [
    (1, "on_demand+lru:6:resident"), (2, "on_demand@skip=0.6"), (2, skipping()), (2, "mixed_precision+lfu:4"),
    (2, "mixed_precision:high=0.5:low=1+lfu:4@layers=cpu:2-3"),
]  # fmt: skip


def in_bits(experts: Experts, layer: ExpertLayer, block: int, bits: float) -> ExpertLayer:
    """A layer whose experts are all in fewer bits."""
    made, model = copy.deepcopy(layer), experts.model
    whole = torch.zeros(model.expert_bytes, dtype=torch.uint8)
    for expert in range(model.n_experts):
        unpack(experts.in_bits((block, expert), bits), model, bits, whole)
        at = 0
        for name, shape in expert_shapes(model).items():
            n = math.prod(shape)
            getattr(made, name).data[expert] = whole.view(torch.float32)[at : at + n].view(shape)
            at += n
    return made


def recomputed(one: Generated, run: OffloadedRun, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], object]:
    """Tokens and states of the model as it is trained, executing what `run` did for the first prompt."""
    prompt, made = PROMPTS[0].tolist(), run.tokens[0].tolist()
    executed = torch.from_numpy(np.concatenate([one for one in run.executed[: len(made)]]).astype(np.int64))
    starts = np.cumsum([0, *(len(one) for one in run.executed)]).tolist()
    blocks = iter(range(executed.shape[1]))
    forward = ExpertLayer.forward

    def others(layer: ExpertLayer, x: torch.Tensor, choice: GateChoice) -> torch.Tensor:
        block = next(blocks)
        mine = executed[:, block]
        out = mine < 0
        kept = choice.weights.masked_fill(out, 0)
        total = kept.sum(1, keepdim=True)
        shared = kept * (choice.weights.sum(1, keepdim=True) / total.clamp_min(1e-30))
        low: dict[float, torch.Tensor] = {}
        for i_pass in range(len(made)):
            for mask, bits in run.rounded.get((i_pass, block), ()):
                low.setdefault(bits, torch.zeros_like(out))[starts[i_pass] : starts[i_pass + 1]] |= torch.from_numpy(
                    mask
                )
        whole = torch.ones_like(out)
        for mask in low.values():
            whole &= ~mask
        found = forward(layer, x, GateChoice(choice.logits, mine.clamp_min(0), shared * whole))
        for bits, mask in low.items():
            rounded = in_bits(one.experts, layer, block, bits)
            found = found + forward(rounded, x, GateChoice(choice.logits, mine.clamp_min(0), shared * mask))
        return found

    monkeypatch.setattr(ExpertLayer, "forward", others)
    with torch.no_grad():
        logits, _ = one.model(torch.tensor([[*prompt, *made[:-1]]]))
    return logits[0, len(prompt) - 1 :].argmax(1).tolist(), logits


@pytest.mark.parametrize(
    ("top_k", "policy"),
    [*DESIGNS, *(pytest.param(*one, marks=pytest.mark.thorough) for one in MORE)],
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_what_is_executed_is_what_the_tokens_are_made_of(
    top_k: int, policy: str | Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = generated(3, top_k=top_k)
    asked = one.asked(policy)
    found = one.run(asked)
    assert found.n_changed > 0
    tokens, _ = recomputed(one, found, monkeypatch)
    assert found.tokens[0].tolist() == tokens
    again = one.run(asked)
    assert again.measured.digest == found.measured.digest
    with_guesses = asked.policy
    if found.guesses:
        with_guesses = replace(with_guesses, predictor=GivenGuesses(found.guesses))
    replayed = capture_request(replace(asked, trace=found.trace, policy=with_guesses)).decoded
    assert replayed.schedule.digest == found.schedule.digest


def test_some_of_them_make_other_tokens_or_states() -> None:
    one = generated(3)
    found = one.run(one.asked(skipping()))
    assert found.measured.digest != one.resident.measured.digest


def test_who_knows_the_future_cannot_change_it() -> None:
    one = generated(3, top_k=2)
    with pytest.raises(InvalidInput, match="knows what gates say with all experts as they are"):
        one.run(one.asked("oracle@skip=0.5"))


def rounds_all(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """All that is missing comes in four bits."""
    return dict.fromkeys(missing, MissAction(bits=4))


def test_bits_cross_the_link_and_what_was_fetched_is_multiplied() -> None:
    one = generated(3)
    asked = one.asked(replace(policy_named("on_demand"), name="rounds", on_miss=rounds_all, is_exact=False))
    found, whole = one.run(asked), one.run(one.asked("on_demand"))
    fetched = [run.schedule.kind == OpKind.FETCH for run in (found, whole)]
    sizes = [np.unique(run.schedule.bytes[mask]).tolist() for run, mask in zip((found, whole), fetched, strict=True)]
    assert sizes[1] == [one.architecture.expert_bytes]
    assert sizes[0] == [one.architecture.expert_bytes // 8]
    assert found.n_changed == sum(int((step.experts >= 0).sum()) for step in found.trace.steps())
    assert found.measured.digest != one.resident.measured.digest


def test_bits_that_no_byte_holds_and_rounding_that_is_called_exact_are_refused() -> None:
    one = generated(3)
    with pytest.raises(InvalidInput, match=r"in 3 bits: the runtime packs .* of 1, 2, 4, 8, 16 bits each"):
        one.run(one.asked("mixed_precision:bits=3+lfu:4"))
    with pytest.raises(InvalidInput, match="is said to be exact: state is_exact=False"):
        one.run(one.asked(replace(policy_named("on_demand"), name="rounds", on_miss=rounds_all)))
