"""The listing of recorded traces is counted from their files: it says what the traces themselves hold."""

from pregate.routing_traces import load_trace
from traces.phase import Phase
from traces.recorded import recorded_names
from traces.recorded.listing import RecordedListing, recorded_listing


def test_what_is_listed_is_what_the_traces_hold() -> None:
    traces = {name: load_trace(name) for name in recorded_names()}
    assert recorded_listing() == [
        RecordedListing(
            name=name,
            model=trace.provenance.model,
            sequences=trace.n_sequences,
            prefill_tokens=int((trace.phase == Phase.PREFILL).sum()),
            decode_tokens=int((trace.phase == Phase.DECODE).sum()),
            moe_layers=trace.n_moe_layers,
            experts=trace.n_experts,
            top_k=trace.top_k,
            licence=trace.provenance.licence,
            source=trace.provenance.source,
        )
        for name, trace in traces.items()
    ]
