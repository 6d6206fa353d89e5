"""What a trained model generated, and how long every design took: what `pregate.generate` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offload.timeline import Timeline
from pregate.ask.result_display import html_rows, to_dataframe
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class DesignGeneration:
    """One design. Figures are medians of the `n_runs` that count (of `n_disturbed`, beside other work,
    none does; where all were, the less disturbed half); `predicted_*` are of the same schedule on the machine given,
    None without one.

    `ids_wait_share`: of the whole run, the share in which nothing computes because the host has not read the ids;
    `stall_share`: because something is on its way. `recall`: of the later gates that a design guesses by. `timeline`:
    of the run of (lower) median length. `n_changed`: choices of tokens for which another expert was executed, the same
    in fewer bits, or none; `tokens_alike`: share of the tokens that are those made with all experts resident.
    `paced_tpot_s`: predicted with processors at the pace of gpu_only's runs in the same turns, of the CPU back end;
    None of gpu_only, and without it.
    """

    policy: str
    tpot_s: float
    ttft_s: float
    tokens_per_s: float
    stall_share: float
    ids_wait_share: float
    hit_rate: float
    h2d_bytes: int
    recall: float | None
    predicted_tpot_s: float | None
    predicted_ttft_s: float | None
    predicted_stall_share: float | None
    predicted_ids_wait_share: float | None
    schedule_digest: str
    output_digest: str
    n_changed: int
    tokens_alike: float
    n_runs: int
    n_disturbed: int
    timeline: Timeline
    paced_tpot_s: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured time a token, minus 1."""
        return None if self.predicted_tpot_s is None else self.predicted_tpot_s / self.tpot_s - 1

    @property
    def paced_error(self) -> float | None:
        """The same of `paced_tpot_s`: what is left when the machine's own pace is not counted."""
        return None if self.paced_tpot_s is None else self.paced_tpot_s / self.tpot_s - 1

    def to_dict(self) -> dict[str, Any]:
        """Every field but the timeline, and both errors, JSON-ready."""
        errors = {"error": self.error, "paced_error": self.paced_error}
        return {name: getattr(self, name) for name in self.__slots__ if name != "timeline"} | errors


@dataclass(frozen=True, slots=True, repr=False)
class Generation:
    """What was generated: `texts` after each prompt, alike for all `designs`; `trace`: what the gates chose.

    `lookahead`: how many MoE blocks ahead the decoder's gates sit. `machine`: what was predicted on, None: nothing was.
    """

    model: str
    lookahead: int
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    trace: RoutingTrace
    designs: tuple[DesignGeneration, ...]
    machine: str | None

    def __repr__(self) -> str:
        return f"Generation({self.model}, {self.lookahead} ahead, {', '.join(one.policy for one in self.designs)})"

    def _repr_html_(self) -> str:
        return html_rows(self.rows(), f"{self.model}, gates {self.lookahead} blocks ahead")

    def rows(self) -> list[dict[str, Any]]:
        """A row a design."""
        return [one.to_dict() for one in self.designs]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; of the trace its digest."""
        return {
            "model": self.model, "lookahead": self.lookahead, "machine": self.machine, "texts": list(self.texts),
            "tokens": [list(one) for one in self.tokens], "trace_digest": self.trace.digest, "designs": self.rows(),
        }  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """`rows` as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.rows())
