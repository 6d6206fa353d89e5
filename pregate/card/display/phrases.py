"""What the whole card and the card on one screen both say, each once."""

from __future__ import annotations

import re

from offload.placing.placement import Placement
from offload.policies import PRESETS
from offload.policies.policy_descriptions import what_it_does
from pregate.card.card import N_SHOWN, Card
from pregate.card.choice import Ranking, weakest
from pregate.card.display.text_layout import command_lines, folded
from pregate.card.judged_design import Expected, Judged
from pregate.draw.render import si
from pregate.engines.writing import Flags

CHANGES = "Would change it"


def shown_designs(choice: Ranking) -> list[tuple[str, Judged]]:
    """The best three, what runs now, and the first of what is not proven, each behind its place."""
    shown = [(str(i), one) for i, one in enumerate(choice.ranked[:N_SHOWN], start=1)]
    if all(one is not choice.now for _, one in shown):
        shown.append(("", choice.now))
    n_beside = max(N_SHOWN - len(shown), choice.possible is not None)
    return shown + [("?", one) for one in choice.beside[:n_beside]]


def design_row(choice: Ranking, mark: str, one: Judged, *tag: str) -> tuple[str, ...]:
    """Cells of a design: its marks, its name, a request, its rate (`rate_head`), TTFT, `tag`, peak memory."""
    rated = one.throughput if one.job.batch > 1 else one.tpot.inverse(1.0)
    n_stages = one.planned.tokens.policy.placement.turns or 1  # whose memory counts as one
    marks = "*" * (one is choice.now) + "~" * (one is not choice.best and choice.straddles(one))
    return (
        mark + marks,
        str(one.design),
        si(one.request.value, "s"),
        rate(rated.value),
        si(one.ttft.value, "s"),
        *tag,
        si(one.peak_hbm_bytes / n_stages, "B"),
    )


def rate_head(batch: int) -> str:
    """Over the rate of a design: of one request from its first token on, or of several over their whole time."""
    return "tokens/s" if batch == 1 else f"tokens/s of all {batch}"


def now_in_words(choice: Ranking) -> str:
    """What runs now: what an engine does that is told nothing, where nobody said."""
    return "now" if choice.is_stated else "the default"


def in_words(one: Judged) -> str:
    """Where a design has weights and computes, or what it does, and how it takes prompts; "" of a user's own."""
    where = one.planned.tokens.policy.placement
    passes = f"prompts by {where.micro_batch:,} tokens" if where.micro_batch else ""
    brought = {None: "", 0: "prompts computed where experts are"}.get(
        where.stream_from, f"experts brought for prompts from {where.stream_from} tokens on"
    )
    return "; ".join(
        filter(None, (_placed_in_words(one), _cards_in_words(where), _under_way_in_words(one), passes, brought))
    )


def _cards_in_words(where: Placement) -> str:
    """How several cards have layers between them, beyond what their engine does that is told nothing."""
    groups, turns = where.expert_groups, where.turns
    said = []
    if groups is not None:
        said.append(f"whole experts on each {f'of {groups} groups of cards' if groups else 'card'}")
    if turns is not None:
        said.append("every layer shared by all cards" if turns == 1 else f"layers in turn on {turns} groups of cards")
    if where.copies > 1:
        said.append(f"{where.copies} copies of attention")
    return "; ".join(said)


def _under_way_in_words(one: Judged) -> str:
    """How many passes of tokens cards in turn have at the same time, where there are several requests to pass."""
    where, batch = one.planned.tokens.policy.placement, one.job.batch
    if (where.turns or 1) == 1 or batch == 1:
        return ""
    n = one.n_under_way
    return f"{n} batches of {-(-batch // n)} tokens under way" if n > 1 else "one batch of tokens under way"


def _placed_in_words(one: Judged) -> str:
    policy, model = one.planned.tokens.policy, one.planned.tokens.model
    where, n_layers = policy.placement, model.decoder.n_layers
    if where.host_layers is not None:
        n = len(where.host_layers.of(n_layers))
        told = f"{n} of {n_layers} layers on the host's processor, the others in HBM"
        return told if n < n_layers else "all layers on the host's processor"
    if where.host_experts is not None:
        n, rest = len(where.host_experts.of(n_layers)), "on the host's processor, all else in HBM"
        if where.n_kept:
            return f"{where.n_kept} of {model.n_experts} experts a layer in HBM, the others on the host's processor"
        return f"experts of {n} of {n_layers} layers {rest}" if n < n_layers else f"all experts {rest}"
    if where.zero_copies or where.streams:
        return _over_link(where, n_layers)
    name = re.split(r"[+(@]", policy.name)[0]
    if name == "on_demand:cpu":
        return "popular experts in HBM, the others computed on the host's processor"
    name = name.partition(":")[0]
    return "all in HBM" if policy.resident else what_it_does(name) if name in PRESETS else ""


def _over_link(where: Placement, n_layers: int) -> str:
    """What waits in host memory: which weights of how many layers, and whether these are copied or read there."""
    experts, others = where.zero_copy_experts or where.streamed_experts, where.zero_copy_weights or where.streamed
    layers = experts or others
    assert layers is not None
    n = len(layers.of(n_layers))
    parts = [(experts, "experts"), (others, "attention and dense weights")]
    what = " and ".join(name for one, name in parts if one is not None)
    told = f"{what} of {n} of {n_layers} layers" if n < n_layers else f"all {what}"
    comes = "where kernels read them over the link" if where.zero_copies else "copied layer by layer"
    return f"{told} in host memory, {comes}"


def changed_by(card: Card, n_most: int) -> tuple[str, str]:
    """The label and the words of what would change the verdict: the nearest `n_most` turning points."""
    points = card.turning_points[:n_most]
    if not points:
        return CHANGES, "no speed of memory or link within a factor of 8"
    return f"{CHANGES} ({weakest(*(point.rests_on for point in points))})", "; ".join(map(str, points))


def bound_by(binds: str) -> tuple[str, dict[str, str]]:
    """A sentence of `what_binds` as what binds, and the shares of lanes that are busy at all, by name.

    Compute is called kernels, which also read weights from HBM: its name would be read as arithmetic alone.
    """
    what, _, shares = re.sub(r"\bcompute\b", "kernels", binds.rstrip(")")).partition(" (")
    what = what.removesuffix(" it").removesuffix(" binds").removesuffix(" bind")
    split = (share.rpartition(" ") for share in shares.split(", "))
    return what, {name.removesuffix(" busy"): share for name, _, share in split if share not in ("0%", "")}


def assumed_hits(card: Card) -> str:
    """That hits are assumed, where a cache met routing that is made up."""
    cached = card.best.planned.tokens.policy.cache is not None
    return ", so hits are assumed" if card.routing == "synthetic" and cached else ""


def run_lines(label: str, flags: Flags, width: int) -> list[str]:
    """How to run a design: a command to copy, and below it what that does not say."""
    if not flags.command:
        return folded(f"{label}: {flags.left_out}", width, "  ")
    note = folded(f"  Note: {flags.left_out}", width, "  ") if flags.left_out else []
    return command_lines(label, flags.command, width) + note


def seconds(estimate: Expected) -> str:
    """The interval of a time."""
    low, high = estimate.interval
    return f"{si(low, 's')} to {si(high, 's')}"


def rates(estimate: Expected) -> str:
    """The interval of a rate."""
    low, high = estimate.interval
    return f"{rate(low)} to {rate(high)}"


def rate(number: float) -> str:
    """Three digits, and never a power of ten."""
    rounded = float(f"{number:.3g}")
    return f"{number:.3g}" if abs(rounded) < 1000 else f"{rounded:,.0f}"
