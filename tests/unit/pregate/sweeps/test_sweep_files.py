"""Sweeps as files: YAML in, netCDF, Parquet and pictures out, and the command that does it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pyarrow import parquet

from offload.policies import cache_named
from pregate.draw.sweep_plot import draw_sweep
from pregate.named import load_model
from pregate.sweeps import sweep_work
from pregate.sweeps.axes import LatinHypercube
from pregate.sweeps.dataset_files import check_output, write_table
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.runner import opened
from pregate.sweeps.sweep import sweep
from pregate.sweeps.sweep_file import read_sweep
from pregate.sweeps.sweep_table import table_of
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import FIFO, Modes
from tests.command_line import Run
from tests.small_models import MODELS, routing
from traces.errors import InvalidFile, InvalidInput
from traces.storage import save_trace
from traces.synthesis.dials import Dials

ROOT = Path(__file__).parents[4]
MODEL = MODELS["decoder-only"]

SMALL = """
model: switch-base-8
hardware: a100-sxm4-80gb
workload: {input_tokens: 8, output_tokens: 4}
policies: [gpu_only, on_demand, pregate]
axes:
  link.h2d_bytes_per_s: {log: [4GB/s, 64e9, 5]}
  hbm_bytes: {linear: [1GB, 5GB, 4]}
"""


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`pregate sweep` of a text in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def command(text: str, *words: str) -> tuple[int, str, str]:
        (tmp_path / "some.yaml").write_text(text)
        return run("sweep", "some.yaml", "--no-cache", *words)

    return command


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return read_sweep(path)


def test_every_key_becomes_its_argument(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        model: switch-base-8
        dtype: bf16
        hardware: a100-sxm4-80gb
        stack: streams
        set: {stack.sync_s: 5us, link.d2h_bytes_per_s: 1.0e+9}
        hbm: 24GiB
        workload:
          input_tokens: 3
          output_tokens: 4
          batch: 2
          seed: 5
          dials: {zipf_exponent: 0.5, repeat_probability: 0.25, layer_correlation: 0}
        policies: [pregate, on_demand+lru:0.1]
        axes:
          batch: [1, 2]
          stack.sync_s: {values: [1us, 2us]}
          link.h2d_bytes_per_s: {log: [1GB/s, 4e9, 3]}
          hbm_bytes: {linear: [1GB, 2GB, 2]}
        modes: {link: shared, chunk_bytes: 1MiB, hbm_shared: true}
        expert_tier: ssd
        cache: lfu:0.2
        draws: 7
        seed: 9
        """,
    )
    axes = found.pop("axes")
    assert found == {
        "model": load_model("switch-base-8", dtype="bf16"),
        "hw": MachineRecipe(
            "a100-sxm4-80gb", "streams", {"stack.sync_s": "5us", "link.d2h_bytes_per_s": 1e9, "hbm_bytes": "24GiB"}
        ),
        "trace": TraceRecipe(3, 4, 2, 5, Dials(0.5, 0.25, 0.0)),
        "policies": ["pregate", "on_demand+lru:0.1"],
        "sample": None,
        "modes": Modes("shared", 1 << 20, True, False),
        "expert_tier": "ssd",
        "cache": cache_named("lfu:0.2"),
        "draws": 7,
        "seed": 9,
    }
    assert axes["batch"] == [1, 2]
    assert axes["stack.sync_s"] == ["1us", "2us"]
    assert axes["link.h2d_bytes_per_s"].tolist() == pytest.approx([1e9, 2e9, 4e9])
    assert axes["hbm_bytes"].tolist() == [1e9, 2e9]


def test_a_sample_has_ranges(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "{model: switch-base-8, hardware: t4, policies: [pregate], sample: {n: 9, seed: 2},"
        " axes: {hbm_bytes: {log: [8GB, 16GB]}, stack.sync_s: {linear: [1us, 2us]}, dtype: [bf16, fp32]}}",
    )
    assert found["sample"] == LatinHypercube(9, 2)
    assert found["axes"] == {
        "hbm_bytes": ("8GB", "16GB", "log"), "stack.sync_s": ("1us", "2us", "linear"), "dtype": ["bf16", "fp32"],
    }  # fmt: skip
    assert (found["trace"], found["modes"], found["cache"]) == (TraceRecipe(), FIFO, None)


def test_files_are_looked_for_beside_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.yaml").write_text(MODEL.to_yaml())
    save_trace(routing(MODEL, batch=2), tmp_path / "deep" / "t.safetensors")
    (tmp_path / "deep" / "s.yaml").write_text(
        "{model: mine.yaml, hardware: t4, policies: [pregate], trace: t.safetensors, workload: {batch: 1}}"
    )
    monkeypatch.chdir(tmp_path)
    found = read_sweep(Path("deep/s.yaml"))
    assert found["model"] == MODEL
    assert found["trace"] == TraceRecipe(path=Path("deep/t.safetensors"), batch=1)
    assert sweep(**found, cache_dir=False)["fits"].all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not valid YAML"),
        ("{model: switch-base-8, hardwear: t4, policies: [pregate]}", "did you mean 'hardware'"),
        ("{model: switch-base, hardware: t4, policies: [pregate]}", "switch-base-128"),
        ("{model: switch-base-8, hardware: t4}", "key 'policies' is missing"),
        ("{model: switch-base-8, hardware: t4, policies: pregate}", "policies is not a list"),
        ("{model: switch-base-8, hardware: t4, policies: [1]}", "1 is not text"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: 4}}", "neither a list nor"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: {lin: [1, 2, 3]}}}", "'linear'"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: {log: [1, 2]}}}", "low, high, n"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: {log: [1, 2, 2.5]}}}", "high, n]"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: {log: 3}}}", "log is not a list"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {b: {log: [1, 2, 3]}}}", "unknown axis"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], axes: {batch: {log: [1, 2, 3]}}, sample: {n: 2}}",
         "a sample has its own number"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], sample: {seed: 2}}", "'n' is missing"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], modes: {link: wide}}", "link mode 'wide'"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], modes: {chunk_bytes: 0}}", "at least 1 byte"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], modes: {cancel: 1}}", "not true or false"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], set: {stack.sync_s: [1]}}", "neither a number nor"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], hbm: 1GB, set: {hbm_bytes: 1}}", "are the same"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], workload: {batch: 0}}", "below 1"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], workload: {bach: 1}}", "did you mean 'batch'"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], trace: t.st, workload: {seed: 1}}", "of synthesis"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], trace: t.st}", "t.st"),
        ("{model: switch-base-8, hardware: t4, policies: [pregate], draws: -1}", "draws = -1 is below 0"),
        ("{model: switch-base-8, policies: [pregate]}", "no hardware"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(run: Run, text: str, message: str) -> None:
    status, out, err = run(text)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert err.count("error:") == 1
    assert out == ""


def test_the_command_writes_the_dataset_and_says_who_wins(run: Run, tmp_path: Path) -> None:
    status, out, err = run(SMALL)
    assert status == 0, err
    with xr.open_dataset(tmp_path / "some.nc") as dataset:
        wanted = sweep(**read_sweep(tmp_path / "some.yaml"), cache_dir=False)
        xr.testing.assert_identical(dataset.load(), wanted)
    for word in ("gpu_only", "on_demand", "pregate", "20 points", "Machine constants: extrapolated"):
        assert word in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.nc", "some.yaml"]


def test_the_summary_as_json_and_csv_agree(run: Run) -> None:
    document = json.loads(run(SMALL, "--format", "json")[1])
    rows = list(csv.DictReader(io.StringIO(run(SMALL, "--format", "csv")[1])))
    assert [row["policy"] for row in rows] == [row["policy"] for row in document["policies"]]
    assert float(rows[2]["tokens_per_s_max"]) == document["policies"][2]["tokens_per_s_max"]
    assert document["attributes"]["model"] == "switch-base-8"


def test_parquet_is_one_row_a_point_and_policy(run: Run, tmp_path: Path) -> None:
    assert run(SMALL + "\ndraws: 5\n", "-o", "out.parquet")[0] == 0
    assert run(SMALL + "\ndraws: 5\n", "-o", "out.nc")[0] == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 3 * 5 * 4
    columns = table.to_pydict()
    with xr.open_dataset(tmp_path / "out.nc") as dataset:
        for i in range(table.num_rows):
            here = {name: columns[name][i] for name in ("policy", "link.h2d_bytes_per_s", "hbm_bytes")}
            point = dataset.sel(here)
            assert columns["fits"][i] == point["fits"].item()
            for name in ("tokens_per_s", "needed_bytes"):
                np.testing.assert_equal(columns[name][i], point[name].item())
            np.testing.assert_equal(columns["tokens_per_s_ci95_low"][i], point["tokens_per_s_ci95"].values[0])
    assert json.loads(table.schema.metadata[b"pregate"])["model"] == "switch-base-8"


def test_a_sample_as_parquet_has_its_axes_as_columns(tmp_path: Path) -> None:
    dataset = sweep(
        MODEL, "t4", routing(MODEL), policies=["pregate", "on_demand"], sample=LatinHypercube(6, 1), cache_dir=False,
        axes={"link.h2d_bytes_per_s": (1e9, 8e9), "dtype": ["fp32", "fp16"]},
    )  # fmt: skip
    write_table(table_of(dataset), tmp_path / "out.parquet")
    columns = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert columns["link.h2d_bytes_per_s"] == dataset["link.h2d_bytes_per_s"].values.tolist() * 2
    assert columns["policy"] == ["pregate"] * 6 + ["on_demand"] * 6
    assert columns["ttft_s"] == dataset["ttft_s"].values.ravel().tolist()


@pytest.mark.parametrize(
    ("axes", "more"),
    [
        ({"link.h2d_bytes_per_s": (1e9, 8e9), "dtype": ["fp32", "fp16"]}, {"sample": LatinHypercube(6, 1)}),
        ({"link": ["pcie4-x16", "pcie5-x16"], "batch": [1], "hbm_bytes": [1e6, 80e9]}, {"draws": 5}),
    ],
)
def test_netcdf_is_as_xarray_writes_it(tmp_path: Path, axes: dict[str, Any], more: dict[str, Any]) -> None:
    dataset = sweep(MODEL, "t4", routing(MODEL), policies=["pregate", "lru"], axes=axes, cache_dir=False, **more)
    write_table(table_of(dataset), tmp_path / "ours.nc")
    dataset.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "ours.nc") as ours, xr.open_dataset(tmp_path / "theirs.nc") as theirs:
        assert ours.identical(theirs)
        assert ours.identical(dataset)
        assert not set(ours.data_vars) & set(dataset.coords)
        for name, found in ours.variables.items():
            known = {key: value for key, value in theirs[name].encoding.items() if key != "source"}
            np.testing.assert_equal({key: found.encoding[key] for key in known}, known)


def test_other_outputs_are_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"\.nc \(netCDF\) or \.parquet"):
        check_output(tmp_path / "out.csv")
    with pytest.raises(InvalidFile, match="no folder"):
        check_output(tmp_path / "no" / "out.nc")
    monkeypatch.setattr("pregate.sweeps.dataset_files.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"pregate\[parquet\]"):
        check_output(tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "out.txt"), "netCDF"),
        (("--cache-dir", "x"), "choose one"),
        (("--dask", "tcp://127.0.0.1:1"), "no scheduler answers"),
        (("--jobs", "0"), "is below 1"),
    ],
)
def test_wrong_options_are_one_clear_line(run: Run, words: tuple[str, ...], message: str) -> None:
    status, _, err = run(SMALL, *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_shared_links_are_said_in_one_line(run: Run) -> None:
    status, out, err = run(SMALL + "\nmodes: {link: shared}\n")
    assert status == 0, err
    assert [line for line in out.splitlines() if "event" in line and "shared" in line]


def test_two_axes_are_drawn_as_maps_and_one_as_lines(run: Run, tmp_path: Path) -> None:
    assert run(SMALL, "--plot", "pictures")[0] == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["best.png", "tokens.png"]
    dataset = sweep(
        MODEL, "t4", routing(MODEL), policies=["pregate"], cache_dir=False,
        axes={"link": ["pcie4-x16", "pcie5-x16"], "stack.sync_s": [1e-6, 3e-6, 2e-6]},
    )  # fmt: skip
    written = draw_sweep(dataset, tmp_path / "lines")
    assert [path.name for path in written] == ["tokens-link=pcie4-x16.png", "tokens-link=pcie5-x16.png"]
    for path in (*written, *(tmp_path / "pictures").iterdir()):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_has_no_lines_is_not_drawn(run: Run, tmp_path: Path) -> None:
    sampled = "{model: switch-base-8, hardware: t4, policies: [pregate], sample: {n: 2}, axes: {batch: {log: [1, 2]}}}"
    status, _, err = run(sampled, "--plot", "p")
    assert (status, (tmp_path / "some.nc").exists()) == (2, False)
    assert "sample" in err
    more: Any = {"policies": ["pregate"], "cache_dir": False}
    names = sweep(MODEL, "t4", routing(MODEL), axes={"link": ["pcie4-x16"]}, **more)
    with pytest.raises(InvalidInput, match="no numeric axis"):
        draw_sweep(names, tmp_path / "p")
    many = sweep(
        MODEL,
        "t4",
        routing(MODEL),
        axes={f"stack.{k}_s": np.arange(1, 6) * 1e-6 for k in ("sync", "step", "launch", "kernel")},
        **more,
    )
    with pytest.raises(InvalidInput, match=r"50 pictures.*at most 24"):
        draw_sweep(many, tmp_path / "p")
    assert not (tmp_path / "p").exists()


INTERRUPTED = """
import os, signal, sys
from pregate.cli.main import main
from pregate.sweeps import sweep_work
from pregate.sweeps.checkpoint import Checkpoint

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have had it ignored
    sweep_work.SMALL_CHUNK_MACHINES = 1
    keep = Checkpoint.save

    def keep_one(*given):
        Checkpoint.save = keep
        keep(*given)
        os.killpg(0, signal.SIGINT)

    Checkpoint.save = keep_one
    main()
"""
"""`pregate` with tasks of one machine; its process group is interrupted, as by a terminal, when the first is kept."""


def test_a_worker_that_is_interrupted_while_it_starts_does_its_work() -> None:
    with opened(None, 1, ()) as pool:
        found = pool.submit(pow, 2, 3)
        (worker,) = pool._processes.values()  # type: ignore[attr-defined]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        assert found.result() == 8


@pytest.mark.parametrize("words", [[], ["--jobs", "2"]], ids=["threads", "processes"])
def test_an_interrupt_keeps_what_is_done_and_the_same_command_goes_on(
    run: Run, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More tasks than are handed out at a time, so that some are left however late the interrupt is taken."""
    swept = (
        "{model: switch-base-8, hardware: t4, policies: [on_demand, pregate], workload: {output_tokens: 4},"
        " modes: {link: shared}, axes: {link.h2d_bytes_per_s: {log: [1e9, 64e9, 70]}}}"
    )
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    (tmp_path / "some.yaml").write_text(swept)
    stopped = subprocess.run(
        [sys.executable, "interrupted.py", "sweep", "some.yaml", "--no-cache", *words], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, start_new_session=True, check=False,
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "interrupted: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    kept = tmp_path / "some.nc.partial"
    found = list(kept.iterdir())
    assert found
    assert all(path.suffix == ".safetensors" for path in found)
    assert not (tmp_path / "some.nc").exists()
    before = {path: path.stat().st_mtime_ns for path in found}
    monkeypatch.setattr(sweep_work, "SMALL_CHUNK_MACHINES", 1)
    status, _, err = run(swept, "--checkpoint", str(kept))
    assert status == 0, err
    assert "wrote some.nc" in err
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(list(kept.iterdir())) == 140 > len(found)


def test_a_recording_that_ships_is_named_wherever_the_file_lies(tmp_path: Path) -> None:
    """By its name where no file of that name lies beside the sweep: a path into an installation is nobody else's."""
    path = tmp_path / "there.yaml"
    path.write_text("{model: gpt-oss-20b, hardware: t4, policies: [pregate], trace: gpt-oss-20b-mmlu}")
    assert read_sweep(path)["trace"].path == Path("gpt-oss-20b-mmlu")
    path.write_text("{model: gpt-oss-20b, hardware: t4, policies: [pregate], trace: mine.safetensors}")
    assert read_sweep(path)["trace"].path == tmp_path / "mine.safetensors"
