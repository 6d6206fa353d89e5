"""A schedule as several cards run it: written as on one, then what each computes of it and what they hand over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from offload.cards.all_reduces import AllReduces
from offload.cards.copied_attention import Exchanges
from offload.cards.expert_groups import ExpertsOnCards
from offload.cards.layers_on_cards import LayersOnCards, card_of_layers, stage_of_layers
from offload.decoding.decode_job import DecodeJob
from offload.recorder import Part
from offload.work import send_work
from traces.routing import Step

Written = Callable[[Iterable[Step]], Iterator[Part]]
"""The schedule of some steps part by part, as on one card."""


def parts_on_cards(job: DecodeJob, steps: Iterable[Step], written: Written) -> Iterator[Part]:
    """The parts of a schedule, on the cards of the job's placement."""
    if job.execution.shares_layers and job.placed.n_cards > 1:
        return _sharing_layers(job, steps, written)
    layers_stay, n_layers = _layers_stay(job), job.model.decoder.n_layers
    n_copies, n_cards = job.execution.input_copies, min(job.placed.n_cards, n_layers)
    parts = written(steps)
    if n_cards == 1 or not n_copies or not layers_stay:
        return parts
    return LayersOnCards(card_of_layers(n_layers, n_cards), n_copies).parts(parts)


def _layers_stay(job: DecodeJob) -> bool:
    """Whether each layer is in the memory of one card, and the cards compute nothing but layers of one decoder."""
    drafts = job.policy.speculation is not None and job.policy.speculation.draft_name != "none"
    return job.policy.resident and job.placed.is_plain and not (job.model.is_encoder_decoder or drafts)


def _sharing_layers(job: DecodeJob, steps: Iterable[Step], written: Written) -> Iterator[Part]:
    """As on one of several cards that share layers, and what the others compute beside or after it."""
    model, placed = job.model, job.placed
    groups = ExpertsOnCards(model, job.execution, placed.expert_groups, placed.turns, placed.copies, placed.held)
    differs = placed.expert_groups > 1 or placed.copies > 1
    parts = written(groups.seen(steps) if differs else steps)
    if placed.n_sharing > 1:
        parts = AllReduces(model, placed.n_sharing, job.execution.first_hands_over).parts(parts)
    if placed.copies > 1:
        parts = Exchanges(model, placed.copies, groups.n_tokens).parts(parts)
    if placed.turns > 1:
        card = stage_of_layers(model.decoder.n_layers, placed.turns)
        parts = LayersOnCards(card, placed.turns, lambda n: send_work(model, n, placed.n_sharing)).parts(parts)
    return groups.parts(parts) if differs else parts
