"""Designs that execute other experts than gates choose: their tokens are those of the model that executes these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from offload.policies import policy_named  # noqa: E402
from offload.policy import BlockView, MissAction, Policy  # noqa: E402
from pregate.ask.capturing.capture import capture_request  # noqa: E402
from runtime.pregated.offloaded import GivenGuesses, OffloadedRun  # noqa: E402
from runtime.pregated.transformer import ExpertLayer, GateChoice, MoeTransformer  # noqa: E402
from tests.agree.test_own_gates import PROMPTS, Generated  # noqa: E402
from tests.pregated_models import seeded_model  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402


def skips_all(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Nothing is brought that is not there."""
    return dict.fromkeys(missing, MissAction.SKIP)


def skipping() -> Policy:
    """A cache that is filled ahead with what some expert is, and no fetch for what is missing."""
    return replace(policy_named("lru_next_gate+lru:6"), name="skips", on_miss=skips_all)


DESIGNS: list[tuple[int, str | Policy]] = [
    (1, "guess/next_gate:guessed"), (1, "on_demand+lru:6:resident"), (2, "on_demand+lru:8:resident"),
    (2, "on_demand@skip=0.6"), (2, "on_demand+lru:6@skip=0.7:sensitivity=1/0.4"), (1, skipping()), (2, skipping()),
]  # fmt: skip


def recomputed(model: MoeTransformer, run: OffloadedRun, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], object]:
    """Tokens and states of the model as it is trained, executing what `run` did for the first prompt."""
    prompt, made = PROMPTS[0].tolist(), run.tokens[0].tolist()
    executed = torch.from_numpy(np.concatenate([one for one in run.executed[: len(made)]]).astype(np.int64))
    blocks = iter(range(executed.shape[1]))
    forward = ExpertLayer.forward

    def others(layer: ExpertLayer, x: torch.Tensor, choice: GateChoice) -> torch.Tensor:
        mine = executed[:, next(blocks)]
        out = mine < 0
        kept = choice.weights.masked_fill(out, 0)
        total = kept.sum(1, keepdim=True)
        shared = kept * (choice.weights.sum(1, keepdim=True) / total.clamp_min(1e-30))
        return forward(layer, x, GateChoice(choice.logits, mine.clamp_min(0), shared))

    monkeypatch.setattr(ExpertLayer, "forward", others)
    with torch.no_grad():
        logits, _ = model(torch.tensor([[*prompt, *made[:-1]]]))
    return logits[0, len(prompt) - 1 :].argmax(1).tolist(), logits


@pytest.mark.parametrize(("top_k", "policy"), DESIGNS, ids=lambda one: getattr(one, "name", str(one)))
def test_what_is_executed_is_what_the_tokens_are_made_of(
    top_k: int, policy: str | Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded_model(3, top_k=top_k)
    one = Generated(model)
    asked = one.asked(policy)
    found = one.run(asked)
    assert found.n_changed > 0
    tokens, _ = recomputed(model, found, monkeypatch)
    assert found.tokens[0].tolist() == tokens
    again = one.run(asked)
    assert again.measured.digest == found.measured.digest
    with_guesses = asked.policy
    if found.guesses:
        with_guesses = replace(with_guesses, predictor=GivenGuesses(found.guesses))
    replayed = capture_request(replace(asked, trace=found.trace, policy=with_guesses)).decoded
    assert replayed.schedule.digest == found.schedule.digest


def test_some_of_them_make_other_tokens_or_states() -> None:
    one = Generated(seeded_model(3))
    found = one.run(one.asked(skipping()))
    assert found.measured.digest != one.resident.measured.digest


def test_who_knows_the_future_cannot_change_it() -> None:
    one = Generated(seeded_model(3, top_k=2))
    with pytest.raises(InvalidInput, match="knows what gates say with all experts as they are"):
        one.run(one.asked("oracle@skip=0.5"))


def test_fewer_bits_are_refused() -> None:
    one = Generated(seeded_model(3))
    with pytest.raises(InvalidInput, match="holds one copy of each"):
        one.run(one.asked("mixed_precision"))
