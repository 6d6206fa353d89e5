"""Speculative decoding from the command line: every command that asks about designs asks about drafts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pregate
from tests.command_line import Run, runner

HARDWARE = "rtx-4090"
ASKED = ("switch-mini-16", "--hardware", HARDWARE, "--input-tokens", "8", "--output-tokens", "12")
DRAFTS = ("--speculative", "gamma=3,acceptance=0.8,draft_s=1ms")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def test_simulate_and_compare_from_the_command_line(cli: Run) -> None:
    status, out, err = cli("simulate", *ASKED, "--policy", "on_demand", *DRAFTS, "--check", "--format", "json")
    assert (status, err) == (0, "")
    assert json.loads(out)["policy"] == "on_demand@gamma=3:acceptance=0.8:draft=stated"
    status, out, _ = cli("compare", *ASKED, "--policies", "on_demand,pregate", *DRAFTS, "--format", "json")
    assert status == 0
    names = [row["policy"] for row in json.loads(out)["results"]]
    assert names == [
        name + rest for name in ("on_demand", "pregate") for rest in ("", "@gamma=3:acceptance=0.8:draft=stated")
    ]


def test_crossover_says_where_it_begins_to_pay(cli: Run) -> None:
    status, out, _ = cli(
        "crossover", *ASKED, "--policies", "on_demand", "--axis", "stack.draft_s", "--from", "1us", "--to", "1s",
        "--speculative", "gamma=2,acceptance=1,draft_s=1ms", "--format", "json",
    )  # fmt: skip
    assert status == 2  # the axis and the option give the same number
    status, out, _err = cli(
        "crossover", *ASKED, "--policies", "gpu_only", "--axis", "stack.draft_s", "--from", "1us", "--to", "1s",
        "--speculative", "gamma=2,acceptance=1,draft=stated", "--format", "json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0
    assert found["first"] == "gpu_only@gamma=2:acceptance=1.0:draft=stated"
    assert [row["above"] for row in found["crossovers"]] == ["gpu_only"]


def test_sweeps_have_axes_of_it(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "model: switch-mini-16\nhardware: rtx-4090\nworkload: {input_tokens: 8, output_tokens: 12}\n"
        "policies: [on_demand]\nspeculative: gamma=2,acceptance=0.5,draft_s=1ms\n"
        "axes: {gamma: [0, 1, 4], acceptance: [0.0, 1.0]}\n"
    )
    status, _, err = cli("sweep", "sweep.yaml", "--no-cache")
    assert status == 0, err
    import xarray as xr

    with xr.open_dataset("sweep.nc") as found:
        plain, drafted = (found["tokens_per_s"].isel(policy=i).values for i in (0, 1))
    assert np.all(plain == plain[0, 0])
    assert np.all(drafted[0] == plain[0, 0])
    model = pregate.load_model("switch-mini-16")
    hw = pregate.load_hardware(HARDWARE, overrides={"stack.draft_s": 1e-3})
    alone = pregate.simulate(
        model, hw, pregate.synthesize(model, 8, 12), "on_demand@gamma=4:acceptance=1.0:draft=stated"
    )
    assert drafted[2, 1] == alone.tokens_per_s
    status, _, err = cli("sweep", "sweep.yaml", "--policies", "on_demand@gamma=1:acceptance=0.5,pregate", "--no-cache")
    assert status == 0, err
    (tmp_path / "bad.yaml").write_text(
        "model: switch-mini-16\nhardware: rtx-4090\npolicies: [on_demand]\naxes: {gamma: [1]}\n"
    )
    status, _, err = cli("sweep", "bad.yaml", "--no-cache")
    assert status == 2
    assert "axis gamma moves designs that draft tokens" in err


def test_optimize_chooses_the_length_of_the_draft(cli: Run) -> None:
    status, out, err = cli(
        "optimize", *ASKED, "--policies", "gpu_only", "--speculative", "gamma=2,acceptance=1", "--axis", "gamma=0,2,5",
        "--maximize", "tokens_per_s", "--format", "json",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["best"]["settings"]["gamma"] == 5


@pytest.mark.parametrize("value", ["-1", "65", "1.5"])
def test_an_axis_of_drafts_has_lengths_that_can_be(cli: Run, value: str) -> None:
    status, _, err = cli(
        "optimize",
        *ASKED,
        "--policies",
        "gpu_only",
        "--speculative",
        "gamma=2,acceptance=1",
        "--axis",
        f"gamma={value}",
    )
    assert status == 2
    assert "gamma" in err


def test_the_largest_batch_is_of_passes_that_verify(cli: Run) -> None:
    status, out, err = cli(
        "simulate", *ASKED, "--hbm", "2GB", "--batch", "max", "--policy", "on_demand", "--speculative",
        "gamma=4,acceptance=0.7", "--format", "json",
    )  # fmt: skip
    assert status == 0, err
    n = json.loads(out)["batch_size"]
    more, out, err = cli(
        "simulate", *ASKED, "--hbm", "2GB", "--batch", str(n + 1), "--policy", "on_demand", "--speculative",
        "gamma=4,acceptance=0.7",
    )  # fmt: skip
    assert more != 0
    assert "HBM" in err
