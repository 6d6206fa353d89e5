"""What a run of a captured schedule comes to, virtual or real: its metrics, and what was brought ahead."""

from __future__ import annotations

from typing import Any

from offload.decode import Decoded
from offload.metrics import run_metrics
from offload.metrics.prefetches import Prefetches, PrefetchTally, RightCopies, named_by, right_copies
from offload.policies.prefetch_all import whole_next_block
from offload.policy import Policy, no_prefetch
from offload.prefetching.selected_ahead import SelectedAhead
from offload.schedule import COLUMNS
from offload.timeline import Timeline
from pregate.ask.capturing.capture import Captured


def metrics_of(captured: Captured, timeline: Timeline, lookups: tuple[int, int] | None = None) -> dict[str, Any]:
    """Every field of `Metrics` by name, of a run of the schedule, virtual or real.

    `lookups`: experts looked up in decoding, and found, where a run counted them itself.
    """
    decoded = captured.decoded
    counted = (decoded.n_lookups, decoded.n_hits) if lookups is None else lookups
    return run_metrics.of_timeline(timeline, captured.trace, captured.workload.n_output_tokens, counted)


def brings_guesses(policy: Policy) -> bool:
    """Whether a policy brings what may turn out not to be needed, by a guess and not simply all there is."""
    shipped = isinstance(policy.prefetch, SelectedAhead) or policy.prefetch in (no_prefetch, whole_next_block)
    return policy.predictor is not None or policy.start is not None or not shipped


def n_missing(decoded: Decoded) -> int:
    """Experts that gates named and that were not resident."""
    return decoded.n_lookups + decoded.n_prefill_lookups - decoded.n_hits - decoded.n_prefill_hits


def right_copies_of(captured: Captured) -> RightCopies | None:
    """What a policy that guesses brings ahead, before any clock; None of any other."""
    if not brings_guesses(captured.policy):
        return None
    schedule = captured.decoded.schedule
    columns = {name: getattr(schedule, name) for name in COLUMNS}
    n = n_missing(captured.decoded)
    return right_copies(columns, schedule.works, _named(captured), n, captured.model.expert_bytes)


def prefetches_of(captured: Captured, timeline: Timeline) -> Prefetches | None:
    """What a policy that guesses brought ahead in a run of its schedule, virtual or real; None of any other."""
    if not brings_guesses(captured.policy):
        return None
    tally, schedule = PrefetchTally(_named(captured)), timeline.schedule
    tally.feed({name: getattr(schedule, name) for name in COLUMNS}, schedule.works, timeline.end_s)
    return tally.found(n_missing(captured.decoded), captured.model.expert_bytes)


def _named(captured: Captured) -> dict[tuple[int, int], list[frozenset[int]]]:
    return named_by(captured.model, captured.trace, captured.request.execution)
