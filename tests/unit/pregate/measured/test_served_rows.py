"""Rows of servers' benchmarks: who asks, as columns and commands have it, and what is predicted of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import METRICS, MeasuredRow
from pregate.measured.rows.served_load import SERVED_METRICS, ServedLoad, load_named
from pregate.measured.rows.table import read_table
from pregate.measured.served_rows import ServedRow
from traces.errors import InvalidInput, PregateError, UnknownName

VLLM = "vllm bench serve --model m --dataset-name random --random-input-len 1024 --random-output-len 128"
SCRIPT = "python benchmarks/benchmark_serving.py --random-input-len 512 --random-output-len 256 --dataset-name random"
SGLANG = (
    "python3 -m sglang.bench_serving --backend sglang --dataset-name random --random-input 1024 --random-output 256"
)


def rows_of(folder: Path, header: str, line: str) -> list[MeasuredRow]:
    (folder / "mine.csv").write_text(f"{header}\n{line}\n")
    return read_table(folder / "mine.csv")


def quoted(cell: str) -> str:
    return cell.replace('"', '""')


def typed(folder: Path, command: str, metric: str, engine: str = "vllm", **cells: str) -> MeasuredRow:
    stated = {"model": "Qwen3-30B-A3B", "gpu": "H100", "engine": engine, "command": command, "metric": metric} | cells
    (found,) = rows_of(
        folder, ",".join((*stated, "value")), ",".join(f'"{quoted(cell)}"' for cell in (*stated.values(), "9"))
    )
    return found


@pytest.mark.parametrize(
    ("command", "engine", "metric", "told"),
    [  # the metric by our name, how many ask at once, tokens of prompt and answer, the load
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Output token throughput (tok/s)",
         ("tokens_per_s", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Request throughput (req/s)",
         ("requests_per_s", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Total Token throughput (tok/s)",
         ("total_tokens_per_s", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency=32", "vllm", "P99 TTFT (ms)",
         ("ttft_p99", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Median TPOT (ms)",
         ("tpot_p50", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Mean ITL (ms)",
         ("tpot", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32", "vllm", "Mean E2EL (ms)",
         ("e2el", 32, 1024, 128, "requests=320")),
        (f"{VLLM} --num-prompts 320 --max-concurrency 32 --random-range-ratio 0.5", "vllm", "p95 E2E latency (ms)",
         ("e2el_p95", 32, 1024, 128, "requests=320;lengths=0.5-1.5")),
        (f"vllm serve m --max-num-seqs 8 & {VLLM} --max-concurrency 16", "vllm", "Mean TTFT (ms)",
         ("ttft", 16, 1024, 128, "requests=1000;slots=8")),
        ("vllm bench serve --model m --num-prompts 100 --request-rate inf", "vllm", "requests/s",
         ("requests_per_s", 100, 1024, 128, "requests=100")),
        (f"{SCRIPT} --num-prompts 200 --request-rate 4", "vllm", "Mean TPOT (ms)",
         ("tpot", 200, 512, 256, "requests=200;rate=4")),
        (f"{SCRIPT} --num-prompts 200 --random-range-ratio 0.8", "vllm", "throughput",
         ("tokens_per_s", 200, 512, 256, "requests=200;lengths=0.8-1")),
        ("vllm bench throughput --model m --input-len 256 --output-len 64 --num-prompts 50", "vllm", "total tok/s",
         ("total_tokens_per_s", 50, 256, 64, "requests=50;offline")),
        (f"{SGLANG} --num-prompts 64 --max-concurrency 16 --random-range-ratio 1", "SGLang", "output throughput",
         ("tokens_per_s", 16, 1024, 256, "requests=64;prompts=alone")),
        (f"{SGLANG} --num-prompts 300 --request-rate 1.5", "sglang", "Median TTFT (ms)",
         ("ttft_p50", 300, 1024, 256, "requests=300;rate=1.5;lengths=0-1;prompts=alone")),
        ("guidellm benchmark --rate-type concurrent --rate 16 --max-requests 99 --data "
         "'prompt_tokens=512,output_tokens=128'", "vllm", "p99 TTFT (ms)", ("ttft_p99", 16, 512, 128, "requests=99")),
        ("guidellm benchmark --rate-type poisson --rate 3 --data prompt_tokens=512,output_tokens=128", "vllm",
         "p90 TTFT (ms)", ("ttft_p90", 1000, 512, 128, "requests=1000;rate=3")),
        ("genai-perf profile -m m --concurrency 16 --request-count 160 --isl 512 --osl 128", "vllm", "RPS",
         ("requests_per_s", 16, 512, 128, "requests=160")),
        ("guidellm benchmark --profile concurrent --rate 16 --max-requests 99 --data "
         "'{\"prompt_tokens\": 512, \"output_tokens\": 128}'", "vllm", "p99 TTFT (ms)",
         ("ttft_p99", 16, 512, 128, "requests=99")),
        ("guidellm benchmark --rate-type constant --rate 3 --data prompt_tokens=512,output_tokens=128", "vllm",
         "req/s", ("requests_per_s", 1000, 512, 128, "requests=1000;rate=3")),
        (f"{VLLM} --request-rate 3 --burstiness 1.0 --num-prompts 90", "vllm", "p99 TTFT (ms)",
         ("ttft_p99", 90, 1024, 128, "requests=90;rate=3")),
        ("genai-perf profile -m m --concurrency 16 --request-count 160 --synthetic-input-tokens-mean 500 "
         "--synthetic-input-tokens-stddev 100 --output-tokens-mean 100 --output-tokens-stddev 0", "vllm", "RPS",
         ("requests_per_s", 16, 500, 100, "requests=160;lengths=0.827-1.173")),
        ("evalscope perf --parallel 16 --number 160 --max-prompt-length 512 --max-tokens 128", "vllm",
         "Avg latency (s)", ("e2el", 16, 512, 128, "requests=160")),
        (f"{VLLM} --max-concurrency 1", "vllm", "P99 TTFT (ms)", ("ttft", 1, 1024, 128, "")),
        (f"{VLLM} --max-concurrency 8", "vllm", "decode tok/s", ("decode_tokens_per_s", 8, 1024, 128, "")),
        ("vllm bench latency --input-len 32 --output-len 128 --batch-size 8", "vllm", "Avg latency (s)",
         ("e2el", 8, 32, 128, "")),
    ],
)  # fmt: skip
def test_commands_say_who_asks(
    command: str, engine: str, metric: str, told: tuple[str, int, int, int, str], tmp_path: Path
) -> None:
    found = typed(tmp_path, command, metric, engine)
    assert not found.reason
    assert (found.metric, found.batch, found.input_tokens, found.output_tokens, found.load) == told
    assert found.design().name == "gpu_only"
    assert METRICS[found.metric][0] == found.unit


@pytest.mark.parametrize(
    ("program", "load"),
    [("ab -n 64 -c 8", "requests=64"), ("hey -n 64 -c 8", "requests=64"), ("oha -c 8", "requests=80")],
)
def test_programs_that_ask_any_server_do(program: str, load: str, tmp_path: Path) -> None:
    found = typed(tmp_path, f"{program} http://localhost:8080/completion", "req/s", "llama.cpp", isl="512", osl="64")
    assert (found.batch, found.load, found.reason) == (8, load, "")


@pytest.mark.parametrize(
    ("command", "metric", "reason"),
    [
        (f"{VLLM} --max-concurrency 8", "P99 ITL (ms)", "gaps between single tokens are not kept"),
        (
            "vllm bench serve --dataset-name sharegpt --max-concurrency 8",
            "req/s",
            "the lengths of sharegpt are its own",
        ),
        ("vllm serve m --max-num-seqs 8", "output throughput", "how many asked at once is not said"),
        ("guidellm benchmark --rate-type sweep --data prompt_tokens=9", "req/s", "finds its own rates"),
        (f"{VLLM} --request-rate 1 2 4", "Mean TTFT (ms)", "several of request_rate"),
        ("vllm serve m", "p99 TTFT (ms)", "state how many ask at once"),
        (f"{VLLM} --request-rate 2 --burstiness 0.5", "req/s", "--burstiness 0.5: requests come at random here"),
        (f"{VLLM} --ramp-up-strategy linear --ramp-up-start-rps 1", "req/s", "requests come at one rate here"),
        (f"{VLLM} --random-prefix-len 500 --max-concurrency 8", "req/s", "what prompts share is read once"),
        (f"{VLLM} --random-range-ratio '{{\"input\": 0.2}}'", "req/s", "of prompts and of answers apart: state"),
        (
            "aiperf profile --isl 64 --osl 8 --request-rate 5 --request-rate-mode constant",
            "p99 TTFT (ms)",
            "not evenly",
        ),
        ("guidellm benchmark --rate-type constant --rate 5 --data prompt_tokens=9", "Mean TPOT (ms)", "not evenly"),
        ("aiperf profile --isl 64 --osl 8 --concurrency 8 --conversation-turn-mean 5", "req/s", "turns of a conver"),
    ],
)
def test_what_no_row_can_say_is_its_reason(command: str, metric: str, reason: str, tmp_path: Path) -> None:
    assert reason in typed(tmp_path, command, metric).reason


@pytest.mark.parametrize(
    ("columns", "cells", "told"),
    [
        ("concurrency,isl,osl,output tok/s", "16,1k,256,9", ("tokens_per_s", 16, "requests=160")),
        ("Users,isl,osl,P50 TTFT (ms)", "4,1024,256,9", ("ttft_p50", 4, "requests=40")),
        ("Request Rate,Num Prompts,isl,osl,Mean ITL (ms)", "2,100,1024,256,9", ("tpot", 100, "requests=100;rate=2")),
        ("max_concurrency,requests,isl,osl,req/s", "8,64,1024,256,9", ("requests_per_s", 8, "requests=64")),
        ("batch size,isl,osl,output tok/s", "16,1024,256,9", ("tokens_per_s", 16, "")),
        ("concurrency,isl,osl,output tok/s", "1,1024,256,9", ("tokens_per_s", 1, "")),
        ("PP,TG,B,N_KV,S t/s", "512,128,4,2560,9", ("total_tokens_per_s", 4, "")),
        ("PP,TG,B,S_TG t/s", "512,128,4,9", ("decode_tokens_per_s", 4, "")),
        ("batch,load,isl,osl,output tok/s", "8,requests=16;rate=3,64,8,9", ("tokens_per_s", 8, "requests=16;rate=3")),
    ],
)
def test_columns_say_who_asks(columns: str, cells: str, told: tuple[str, int, str], tmp_path: Path) -> None:
    (found,) = rows_of(tmp_path, f"model,gpu,engine,{columns}", f"Qwen3-30B-A3B,H100,vllm,{cells}")
    assert (found.metric, found.batch, found.load, found.reason) == (*told, "")


def test_lengths_are_said_by_a_column(tmp_path: Path) -> None:
    header, cells = "model,gpu,engine,concurrency,isl,osl,output tok/s,lengths", "Qwen3-30B-A3B,H100,vllm,16,1024,256,9"
    (found,) = rows_of(tmp_path, header, f"{cells},0.5-1.5")
    assert (found.load, found.reason) == ("requests=160;lengths=0.5-1.5", "")
    for none in ("even", "0.5", "nan-1", "1.5-0.5", "0-3", "-1-1"):
        (found,) = rows_of(tmp_path, header, f"{cells},{none}")
        assert (found.load, f"lengths '{none}': from how much" in found.reason) == ("", True)


def test_a_load_is_what_it_says() -> None:
    one = ServedLoad(320, 4.0, (0.5, 1.0), 8, "alone", offline=True)
    assert load_named(str(one)) == one
    assert load_named(str(ServedLoad(3))) == ServedLoad(3)
    for text, error, said in (
        ("requests=3;speed=9", UnknownName, "speed"), ("rate=3", InvalidInput, "requests=320"),
        ("requests=3;prompts=never", UnknownName, "never"), ("requests=3;rate=0", InvalidInput, "above 0"),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            load_named(text)


COLUMNS = "model,gpu,engine,quant,concurrency,requests,isl,osl,command"
BENCH = RowBench()


def served(folder: Path, metric: str, clients: int, n: int = 24, command: str = "", engine: str = "llama.cpp") -> float:
    line = f"Qwen3-30B-A3B,RTX 4090,{engine},q4_k_m,{clients},{n},256,16,{command}"
    unit = METRICS[metric][0]
    (found,) = rows_of(folder, f"{COLUMNS},metric,value,unit", f"{line},{metric},9,{unit}")
    return BENCH.predict(found)


def test_what_a_server_is_measured_by_hangs_together(tmp_path: Path) -> None:
    told = {metric: served(tmp_path, metric, 4) for metric in SERVED_METRICS}
    assert told["tokens_per_s"] == pytest.approx(16 * told["requests_per_s"])
    assert told["total_tokens_per_s"] == pytest.approx((256 + 16) * told["requests_per_s"])
    assert told["e2el"] == pytest.approx(told["ttft"] + 15 * told["tpot"])
    assert told["requests_per_s"] == pytest.approx(4 / told["e2el"], rel=0.1), "four are under way nearly always"
    for metric in ("ttft", "tpot", "e2el"):
        found = [told[f"{metric}_p{p}"] for p in (50, 90, 95, 99)]
        assert found == sorted(found)
        assert min(found) > 0


def test_requests_beyond_the_slots_wait(tmp_path: Path) -> None:
    all_run = served(tmp_path, "ttft", 4)
    wait = served(tmp_path, "ttft", 4, command="llama-server -m m.gguf -ngl 99 -np 2")
    assert wait > 1.5 * all_run
    assert served(tmp_path, "requests_per_s", 4, command="llama-server -m m.gguf -ngl 99 -np 2") < served(
        tmp_path, "requests_per_s", 4
    )


def test_prompts_of_a_closed_loop_hold_up_tokens_of_others(tmp_path: Path) -> None:
    (batch,) = rows_of(
        tmp_path, "model,gpu,engine,quant,batch,isl,osl,metric,value,unit",
        "Qwen3-30B-A3B,RTX 4090,llama.cpp,q4_k_m,12,256,16,tpot,9,s",
    )  # fmt: skip
    assert served(tmp_path, "tpot", 12, n=40) > 1.05 * BENCH.predict(batch)


def test_memory_limits_how_many_run_at_once(tmp_path: Path) -> None:
    (found,) = rows_of(
        tmp_path, "model,gpu,engine,quant,concurrency,requests,isl,osl,metric,value,unit",
        "Qwen3-30B-A3B,RTX 4090,vllm,int4-g128,64,64,8192,16,requests_per_s,9,req/s",
    )  # fmt: skip
    one = ServedRow.of(found, BENCH.model(found), BENCH.platform(found), 0)
    assert 1 < one.slots < 64
    assert one.found.peak_hbm_bytes <= 24 * 2**30


def test_a_rate_that_is_served_is_kept_and_lengths_vary(tmp_path: Path) -> None:
    (found,) = rows_of(
        tmp_path, "model,gpu,engine,quant,load,isl,osl,metric,value,unit",
        "Qwen3-30B-A3B,RTX 4090,llama.cpp,q4_k_m,requests=60;rate=0.5;lengths=0-1,64,16,requests_per_s,9,req/s",
    )  # fmt: skip
    one = ServedRow.of(found, BENCH.model(found), BENCH.platform(found), 0)
    assert one.predicted == pytest.approx(len(one.requests) / one.requests.arrival_s[-1], rel=0.02)
    assert 1 <= one.requests.input_tokens.min() < 16
    assert 48 < one.requests.input_tokens.max() <= 64
    assert one.slots <= 16 < found.batch, "as many slots are asked about as somebody needs"
    assert abs(sum(one.elasticities.values())) < 0.05, "it depends on who comes"


def test_a_closed_loop_depends_on_the_machine_as_its_passes_do(tmp_path: Path) -> None:
    (found,) = rows_of(
        tmp_path, f"{COLUMNS},metric,value", "Qwen3-30B-A3B,RTX 4090,llama.cpp,q4_k_m,4,24,256,16,,throughput,9"
    )
    depends = BENCH.elasticities(found)
    assert depends["stack.hbm_efficiency"] < -0.2
    assert np.isfinite(list(depends.values())).all()
    slower = BENCH.predict(found, {"stack.hbm_efficiency": 0.9 * BENCH.platform(found).constants["hbm_efficiency"]})
    assert np.log(BENCH.predict(found) / slower) / np.log(0.9) == pytest.approx(
        depends["stack.hbm_efficiency"], abs=0.05
    )


def test_what_no_load_has_is_refused_by_name(tmp_path: Path) -> None:
    line = "Qwen3-30B-A3B,RTX 4090,llama.cpp,q4_k_m,4,24,256,16,,512,throughput,9"
    (found,) = rows_of(tmp_path, f"{COLUMNS},context_tokens,metric,value", line)
    with pytest.raises(PregateError, match="keep nothing from before"):
        BENCH.predict(found)
