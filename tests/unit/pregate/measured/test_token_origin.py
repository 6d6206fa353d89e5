"""Which tokens a row was measured with."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table
from traces.errors import UnknownName
from traces.routing import RoutingTrace

HEADER = "model,hardware,formats,stack,policy,metric,input_tokens,routing,value,unit"


def rows(folder: Path, *lines: str) -> list[MeasuredRow]:
    path = folder / "rows.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return read_table(path)


@pytest.mark.parametrize(
    ("stack", "policy", "metric", "said", "meant"),
    [
        ("llama-cpp", "gpu_only@experts=cpu", "prefill_tokens_per_s", "", "random"),
        ("ik-llama", "gpu_only@experts=cpu", "decode_tokens_per_s", "", "random"),
        ("llama-cpp", "gpu_only@experts=cpu", "prefill_tokens_per_s", "text", ""),
        ("llama-cpp", "gpu_only@experts=cpu", "ttft", "", ""),  # a server's
        ("llama-cpp", "on_demand+lru:0.4", "decode_tokens_per_s", "", ""),  # a cache is tried with text
        ("vllm", "gpu_only", "prefill_tokens_per_s", "", ""),
        ("vllm", "gpu_only", "prefill_tokens_per_s", "random", "random"),
        ("vllm", "gpu_only", "pp512", "", "random"),  # a test of llama-bench
    ],
)
def test_a_rate_of_an_engine_whose_benchmark_draws_its_tokens_is_of_drawn_ones_unless_it_says_text(
    tmp_path: Path, stack: str, policy: str, metric: str, said: str, meant: str
) -> None:
    unit = "s" if metric == "ttft" else "tokens/s"
    (row,) = rows(tmp_path, f"qwen3-30b-a3b,rtx-4090,all=q4_k_m,{stack},{policy},{metric},512,{said},9,{unit}")
    assert row.routing == meant


def test_a_routing_that_is_none_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"routing 'randem' in .*line 2: did you mean 'random'"):
        rows(tmp_path, "qwen3-30b-a3b,rtx-4090,all=q4_k_m,vllm,gpu_only,ttft,512,randem,9,s")


def test_drawn_tokens_ask_for_more_experts_than_text_and_repeat_none(tmp_path: Path) -> None:
    line = "qwen3-30b-a3b,rtx-4090,all=q4_k_m,llama-cpp,gpu_only@experts=cpu,prefill_tokens_per_s,64,{},9,tokens/s"
    bench = RowBench()
    traces: list[RoutingTrace] = []
    for row in rows(tmp_path, line.format("text"), line.format("")):
        assert bench.predict(row) > 0
        traces.append(bench._run(row, bench.platform(row)).trace)
    text, drawn = (
        [len(np.unique(trace.experts[:64, layer])) for layer in range(trace.n_moe_layers)] for trace in traces
    )
    assert np.mean(drawn) > 1.15 * np.mean(text)
    prompt = traces[1].experts[:64]
    shared = {gap: _shared(prompt, gap) for gap in (1, 32)}  # by popularity alone, however far apart
    assert shared[1] == pytest.approx(shared[32], rel=0.08)


def _shared(prompt: NDArray[np.int16], gap: int) -> float:
    """Of the experts of a token, how many another `gap` tokens later has too, the mean over layers."""
    both = [
        np.intersect1d(*pair).size
        for a, b in zip(prompt, prompt[gap:], strict=False)
        for pair in zip(a, b, strict=True)
    ]
    return float(np.mean(both))
