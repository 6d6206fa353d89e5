"""`pregate optimize` on the command line: the same answer as in Python, and mistakes in one line."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from pregate.cli.commands import optimize as command
from pregate.optima.optimize import optimize
from pregate.sweeps.workloads import TraceRecipe
from tests.command_line import Run

SMALL = ["switch-base-8", "--input-tokens", "16", "--output-tokens", "6"]
SPACE = ["--hardware", "rtx-3060-12gb,rtx-4090,a10", "--axis", "batch=1,3", "--policies", "gpu_only, pregate"]


@pytest.fixture
def run(run: Run) -> Run:
    """`pregate optimize WORDS`."""
    return functools.partial(run, "optimize")


def test_the_table_is_the_front_and_the_line_below_says_the_optimum(run: Run) -> None:
    status, out, _ = run(*SMALL, *SPACE, "--minimize", "price_usd", "--maximize", "tokens_per_s",
                         "--subject-to", "tpot_p99_s<=1s")  # fmt: skip
    assert status == 0
    for word in ("Pareto front: switch-base-8 on 2 machines", "Lowest price_usd: $329", "rtx-3060-12gb", "$1,599",
                 "No constraint costs anything.", "Left out for want of a price: a10.", "claimed"):  # fmt: skip
        assert word in out


def test_json_and_csv_are_what_python_says(run: Run) -> None:
    goals = ["--minimize", "price_usd", "--minimize", "tpot_p99_s", "--subject-to", "tokens_per_s>=10"]
    document = json.loads(run(*SMALL, *SPACE, *goals, "--format", "json")[1])
    found = optimize(
        "switch-base-8", trace=TraceRecipe(16, 6, 1), policies=["gpu_only", "pregate"],
        axes={"hardware": ["rtx-3060-12gb", "rtx-4090", "a10"], "batch": [1, 3]},
        objectives=["price_usd:min", "tpot_p99_s:min"], constraints="tokens_per_s>=10",
    )  # fmt: skip
    assert document == json.loads(json.dumps(found.to_dict()))
    rows = list(csv.DictReader(io.StringIO(run(*SMALL, *SPACE, *goals, "--format", "csv")[1])))
    assert [float(row["tpot_p99_s"]) for row in rows] == [row["fields"]["tpot_p99_s"] for row in found.front]
    assert [row["hardware"] for row in rows] == [row["settings"]["hardware"] for row in found.front]


def test_without_goals_it_is_the_lowest_price_then_the_most_tokens(run: Run) -> None:
    document = json.loads(run(*SMALL, *SPACE, "--format", "json")[1])
    assert document["objectives"] == ["price_usd:min", "tokens_per_s:max"]


def test_nothing_feasible_is_an_answer(run: Run) -> None:
    status, out, _ = run(*SMALL, *SPACE, "--subject-to", "tpot_p99_s<=1ns")
    assert status == 1  # an answer, and not what was asked for
    assert out.startswith("Nothing meets every constraint. tpot_p99_s<=1ns: the nearest is ")


def test_a_range_is_searched_by_optuna_and_drawn(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    status, out, err = run(
        *SMALL, "--hardware", "rtx-4090", "--axis", "hbm_bytes=2GB..24GB:log", "--axis", "cache_ratio=0..1",
        "--minimize", "peak_hbm_bytes", "--maximize", "tokens_per_s", "--trials", "20", "--plot", str(path),
    )  # fmt: skip
    assert status == 0
    assert "Optuna's choice of 20 candidates" in out
    assert f"wrote {path}" in err
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_file_of_a_sweep_states_what_is_searched(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    text = "model: switch-base-8\nhardware: rtx-4090\npolicies: [gpu_only, pregate]\n"
    text += "workload: {input_tokens: 16, output_tokens: 6}\n"
    path.write_text(text + "axes: {batch: [1, 3], hbm_bytes: {log: [2GB, 24GB, 3]}}\n")
    document = json.loads(run("--sweep", str(path), "--maximize", "tokens_per_s", "--format", "json")[1])
    assert (document["method"], document["n_evaluated"]) == ("exhaustive", 12)
    path.write_text(text + "axes: {batch: [1, 3], hbm_bytes: {log: [2GB, 24GB]}}\nsample: {n: 30, seed: 3}\n")
    document = json.loads(run("--sweep", str(path), "--maximize", "tokens_per_s", "--format", "json")[1])
    assert document["method"] == "optuna"
    assert document["n_evaluated"] == 30
    seeded = [run("--sweep", str(path), "--maximize", "tokens_per_s", "--seed", seed, "--format", "json")[1]
              for seed in ("3", "4")]  # fmt: skip
    assert json.loads(seeded[0]) == document != json.loads(seeded[1])
    path.write_text(text + "draws: 10\n")
    assert "a search has no intervals" in run("--sweep", str(path))[2]
    status, _, err = run("switch-base-8", "--sweep", str(path))
    assert (status, "leave out model" in err) == (2, True)
    assert "leave out input-tokens" in run("--sweep", str(path), "--input-tokens", "8")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to search"),
        (["switch-base-8", "--axis", "batch"], "neither NAME=VALUE,VALUE,... nor NAME=LOW..HIGH"),
        (["switch-base-8", "--axis", "batch=1", "--axis", "batch=2"], "--axis batch is given twice"),
        (["switch-base-8", "--hardware", "l4", "--axis", "hardware=rtx-4090"], "are the same: give one"),
        (["switch-base-8", "--minimize", "cost"], "did you mean 'price_usd' or"),
        (["switch-base-8", "--subject-to", "price_usd=3"], "write FIGURE<=NUMBER"),
        (["switch-base-8", "--method", "random"], "unknown method 'random'"),
        (["switch-base-8", "--plot", "front.txt"], "pictures are written as .png"),
        (["switch-base-8", "--trace", "x.safetensors", "--output-tokens", "8"], "leave out --trace"),
        (["switch-base-8", "--hardware", "a10"], "no price is known of a10"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(run: Run, words: list[str], message: str) -> None:
    status, out, err = run(*words)
    assert status == 2
    assert message in err
    assert out == ""


def test_the_example_of_the_help_runs(run: Run) -> None:
    (example,) = re.findall(r"Example: pregate optimize (.+)", command.optimize.__doc__ or "")
    status, out, _ = run(*shlex.split(example))
    assert status == 0
    assert "Pareto front: switch-base-8" in out
