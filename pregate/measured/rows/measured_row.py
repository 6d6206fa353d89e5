"""One measured row, in the project's words: what ran, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hwmodels.quantity import ReadOnly
from hwmodels.specs.set_options import parse_sets
from offload.placing.placement_clauses import placement_named
from offload.policies import policy_named
from offload.policy import Policy
from pregate.engines.reading import told_of_flags
from pregate.measured.rows.served_load import SERVED_METRICS, metric_of_requests
from traces.errors import InvalidInput

METRICS: Mapping[str, tuple[str, bool]] = ReadOnly(
    {
        "decode_tokens_per_s": ("tokens/s", True),
        "microbatch_tokens_per_s": ("tokens/s", True),
        "prefill_tokens_per_s": ("tokens/s", True),
        "tokens_per_s": ("tokens/s", True),
        "total_tokens_per_s": ("tokens/s", True),
        "requests_per_s": ("requests/s", True),
        "ttft": ("s", False),
        "tpot": ("s", False),
        "e2el": ("s", False),
        **{metric: ("s", False) for metric in SERVED_METRICS if metric_of_requests(metric)[1]},
        "moe_layer_latency": ("s", False),
        "peak_hbm_bytes": ("bytes", False),
        "hit_rate": ("fraction", True),
        "max_active_experts": ("experts", False),
        "h2d_bytes_per_s": ("bytes/s", True),
        "cpu_bytes_per_s": ("bytes/s", True),
        "model_bytes": ("bytes", False),
    }
)
"""Metrics by name: their unit, and whether more is better. Decode and prefill rates are of one sequence's tokens times
the batch; `microbatch_tokens_per_s`: of one prompt that is read `batch` tokens at a time, `context_tokens` before each
pass on average (`pregate.measured.rows.microbatches`); `tokens_per_s` is output tokens over the whole run,
`total_tokens_per_s` with those of prompts, `e2el` from a request to its last token, `ttft_p99` and the like percentiles
over the requests of a load;
`max_active_experts`: of one layer in one pass; `h2d_bytes_per_s`: what copies of one expert to the device achieve;
`cpu_bytes_per_s`: what the host's experts read."""


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One measurement, in the project's words."""

    name: str
    source: str
    model: str
    hardware: str
    host: str
    """Of the machine, and so `link`; empty as `hardware` has it."""
    link: str
    formats: str
    """As the option of the same name takes it, and so `placement`, `policy` and `set`."""
    placement: str
    policy: str
    """`gpu_only` where a table says none."""
    stack: str
    load: str
    """How requests came, as `load_named` takes it; empty: all of the batch began together."""
    batch: int
    """At once; 0 where the table says max: the largest that memory allows."""
    input_tokens: int
    output_tokens: int
    context_tokens: int
    """Tokens kept from before the prompt."""
    metric: str
    """A name of `METRICS`; of a row that cannot be said, any."""
    value: float
    """In the unit of the metric; NaN in a row with a reason where nothing was measured."""
    unit: str
    set: str
    """Overrides, with `;` between."""
    expert_tier: str
    """Where experts wait: dram or ssd."""
    routing: str
    """Empty: as typical for text; random: of tokens drawn at random; isca24: as assumed of that workload; isca24:4:
    with four experts a layer forced.
    """
    role: str
    """Empty: predicted and scored. `fit KEY`: determines the constant KEY of its source and machine, `fit` that of what
    binds it, `stack` those of its stack (`stack_fit`); none of these is scored. `input`: no measurement of a run.
    """
    reason: str
    """Why the row cannot be said; empty where it can."""
    note: str

    @property
    def machine(self) -> tuple[str, str, str, str]:
        """The source and the machine: rows of one share a fitted constant."""
        return self.source, self.hardware, self.host, self.link

    @property
    def overrides(self) -> dict[str, str]:
        """The numbers of `set`. Raises `InvalidInput` for one that is no KEY=VALUE or is given twice."""
        told_of_flags(self._flagged)
        parts = [part.strip() for part in self.set.split(";") if part.strip()]
        for part in parts:
            if part.partition("=")[0].strip() in _NO_NUMBERS:
                raise InvalidInput(f"{self.name}: set {part[:60]!r} is a column of its own, no number of a machine")
        return parse_sets(parts, f"{self.name}: set")

    def design(self) -> Policy:
        """The policy, the model placed as the row says. Raises `InvalidInput` for what is none."""
        told_of_flags(self._flagged)
        placement = placement_named(self.placement) if self.placement else None
        return policy_named(self.policy).with_placement(placement)

    @property
    def _flagged(self) -> dict[str, str]:
        """The cells that flags of an engine stand in, or speak of."""
        return {name: getattr(self, name) for name in ("policy", "model", "stack", "set", "host", "hardware", "metric")}

    @property
    def is_of_isca24(self) -> bool:
        """Whether its tokens spread over experts as that workload's."""
        return self.routing.startswith("isca24")

    @property
    def is_of_random_tokens(self) -> bool:
        """Whether what it was fed was drawn at random, and no text."""
        return self.routing == "random"

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.metric in METRICS and METRICS[self.metric][1]

    @property
    def is_timed(self) -> bool:
        """Whether the metric is of time, and not of memory or routing alone."""
        return self.metric in METRICS and METRICS[self.metric][0] in ("s", "tokens/s", "requests/s")

    @property
    def is_scored(self) -> bool:
        """Whether it is predicted to be judged."""
        return not self.reason and not self.role


COLUMNS = tuple(field.name for field in fields(MeasuredRow))
"""The columns of a table, in order; those that a file leaves out are empty."""

_NO_NUMBERS = frozenset(COLUMNS) - {"host", "link"}
"""Columns that `set` can say nothing of."""
