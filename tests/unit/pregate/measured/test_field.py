"""Tables of measurements: read strictly, predicted row by row, scored beside rules of thumb."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path

import pytest

import pregate
from pregate.cli.commands.reproduce_table import reproduce_table
from pregate.cli.options import Format
from pregate.measured.constants.stack_fit import fit_stack
from pregate.measured.reproduction import PUBLISHED_ROWS, reproduce
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import COLUMNS, METRICS
from pregate.measured.rows.table import read_field, read_table
from pregate.measured.table_prediction import predict_table
from tests.command_line import Run, runner
from tests.table_rows import ROW, read, table
from traces.errors import InvalidFile, InvalidInput, UnknownName


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "speed"}, "metric 'speed'"), ({"value": "0"}, "not a number above 0"),
        ({"value": "-3"}, "above 0"), ({"metric": "hit_rate", "unit": "fraction", "value": "1.2"}, "from 0 to 1"),
        ({"value": "1e999"}, "above 0"), ({"unit": "hops/s"}, "unit 'hops/s'"), ({"batch": "1.5"}, "whole number"),
        ({"input_tokens": "0", "metric": "ttft", "unit": "s"}, "whole number of 1"),
        ({"role": "fitted"}, "role 'fitted'"),
        ({"role": "fit link.speed"}, "number 'link.speed'"),
        ({"colour": "red"}, "column 'colour'"), ({"output_tokens": "\N{ARABIC-INDIC DIGIT TWO}"}, "whole number"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_is_refused_with_its_line(change: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises((InvalidFile, UnknownName), match=words) as caught:
        read(tmp_path, ROW | change)
    assert "rows.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_strangers_header_and_figures_are_read_or_told_how_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "Model,Hardware,Input tokens,Metric,Value,Unit\nqwen3-30b-a3b,rtx-4090,7,Decode throughput,40,tok/s\n"
    )
    (row,) = read_table(path)
    assert (row.model, row.input_tokens, row.metric, row.name) == (
        "qwen3-30b-a3b", 7, "decode_tokens_per_s", "qwen3-30b-a3b on rtx-4090, gpu_only, decode_tokens_per_s",
    )  # fmt: skip
    for text, words in (
        ("model|hardware\na|b\n", "parted by '.', not by commas"),
        ("model\thardware\na\tb\n", "missing or twice metric, value"),
        ("model,hardware,metric,value,unit,set\na,b,ttft,1,s,x=1,y=2\n", "as many cells as columns, 6, .* parted by ;"),
        ("model,Model,hardware,metric,value,unit\na,a,b,ttft,1,s\n", "twice"),
        ('model,hardware,metric,value,unit\na,b,prefill_tokens_per_s,"1,2,3",tok/s\n', "above 0$"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidFile, match=words):
            read_table(path)


def test_a_row_that_is_not_said_is_named_and_a_constant_at_its_end_says_so(
    tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(
        tmp_path / "t.csv",
        ROW | {"source": "", "stack": "nobody"},
        ROW | {"role": "fit stack.hbm_efficiency", "value": "1e9"},
    )
    monkeypatch.setenv("COLUMNS", "250")
    status, out, _ = command("reproduce", str(path))
    assert status == 1  # no row was scored
    assert "unknown stack 'nobody'" in out
    assert "switch-mini-16 on rtx-4090, on_demand, decode_tokens_per_s" in out
    assert "the nearest that is tried: its row stays -100 % off" in out
    assert "Accuracy" not in out  # no row is judged
    assert "0 of 2 rows scored" in out


def test_a_table_without_rows_or_columns_is_refused(tmp_path: Path) -> None:
    for text, words in (("", "missing"), (",".join(ROW) + "\n", "no rows"), ("a,b\n1,2\n", "column 'a'")):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises((InvalidFile, UnknownName), match=words):
            read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + ",more\n")
    with pytest.raises(InvalidFile, match="as many cells as columns"):
        read_table(tmp_path / "t.csv")


def test_a_model_beyond_the_hosts_memory_is_told_what_a_row_may_say(tmp_path: Path) -> None:
    beyond = ROW | {
        "model": "mixtral-8x7b", "policy": "gpu_only@experts=cpu", "stack": "llama-cpp", "host": "desktop-ddr5",
        "formats": "all=bf16",
    }  # fmt: skip
    (refused,) = predict_table(read(tmp_path, beyond), cache_dir=False).rows
    assert "desktop-ddr5 has 68.7 GB: try expert_tier ssd, or set host.dram_bytes=" in refused.reason
    (found,) = predict_table(read(tmp_path, beyond | {"expert_tier": "ssd+lru:48GiB"}), cache_dir=False).rows
    assert found.predicted > 0


def test_units_become_seconds(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW | {"metric": "ttft", "value": "250", "unit": "ms"})
    assert row.value == 0.25
    assert not row.more_is_better
    assert row.name == "a test: switch-mini-16 on rtx-4090, on_demand, ttft"


@pytest.mark.parametrize(
    ("written", "unit", "metric"),
    [
        ("Decode throughput", "tok/sec", "decode_tokens_per_s"),
        ("prefill-throughput", "tokens/second", "prefill_tokens_per_s"),
        (" TTFT ", "ms", "ttft"),
    ],
)
def test_a_metric_may_be_written_as_others_write_it(tmp_path: Path, written: str, unit: str, metric: str) -> None:
    (row,) = read(tmp_path, ROW | {"metric": written, "unit": unit, "value": "5"})
    assert row.metric == metric
    with pytest.raises(UnknownName, match="did you mean 'decode_tokens_per_s'"):
        read(tmp_path, ROW | {"metric": "decode tokens"})


def test_a_link_is_asked_for_copies_of_one_expert(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW | {"metric": "h2d_bytes_per_s", "unit": "GB/s", "value": "20"})
    bench = RowBench()
    hw, n_bytes = bench.platform(row), pregate.load_model(ROW["model"]).expert_bytes
    link = hw.machine.link
    seconds = hw.constant("copy_latency_s") + n_bytes / (link.h2d_bytes_per_s * (link.h2d_efficiency or 0))
    assert bench.predict(row) == pytest.approx(n_bytes / seconds)


def test_every_metric_is_of_one_run(tmp_path: Path) -> None:
    bench, found = RowBench(), {}
    for metric, (unit, _) in METRICS.items():
        (row,) = read(tmp_path, ROW | {"metric": metric, "unit": unit, "value": "1", "context_tokens": "3"})
        found[metric] = bench.predict(row)
    assert found["decode_tokens_per_s"] == pytest.approx(1 / found["tpot"])
    assert found["prefill_tokens_per_s"] == pytest.approx(4 / found["ttft"])
    assert found.pop("hit_rate") == 0  # on demand
    assert all(value > 0 for value in found.values())


def test_a_longer_context_takes_longer(tmp_path: Path) -> None:
    rows = read(
        tmp_path, *(ROW | {"model": "olmoe-1b-7b", "policy": "gpu_only", "context_tokens": n} for n in ("0", "30000"))
    )
    short, long = map(RowBench().predict, rows)
    assert long < 0.95 * short


def test_a_row_of_a_machine_determines_its_constant_and_is_not_scored(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW)
    right = RowBench().predict(row, {"link.h2d_bytes_per_s": 7e9})
    rows = [
        ROW | {"value": f"{right:.9g}", "role": "fit link.h2d_bytes_per_s"},
        ROW | {"value": f"{right:.9g}", "metric": "decode_tokens_per_s", "policy": "pregate"},
        ROW | {"value": f"{right:.9g}", "source": "another"},
        ROW | {"reason": "cannot be said"},
        ROW | {"role": "input"},
        ROW | {"hardware": "no-such-card"},
        ROW | {"hardware": "no-such-card", "role": "fit stack.sync_s"},
    ]
    found = predict_table(read(tmp_path, *rows))
    assert found.constants == {"a test, rtx-4090: link.h2d_bytes_per_s": pytest.approx(7e9, rel=1e-6)}
    fitted, same_machine, elsewhere, *rest = found.rows
    assert fitted.predicted == pytest.approx(right, rel=1e-6)
    assert same_machine.baselines["repeat"] == pytest.approx(right)
    assert "repeat" not in elsewhere.baselines
    assert elsewhere.predicted != pytest.approx(right, rel=0.05)
    assert [math.isnan(one.predicted) for one in rest] == [True] * 4
    assert rest[0].reason == "cannot be said"
    assert "no-such-card" in rest[2].reason
    assert found.scored == [same_machine, elsewhere]
    overall = found.scores()[0]
    assert overall.n == 2
    assert overall.mape == pytest.approx((abs(same_machine.error) + abs(elsewhere.error)) / 2)
    assert sum(found.unsaid().values()) == 4
    assert found.to_csv().splitlines()[0] == ",".join([*COLUMNS, "predicted"])
    assert len(found.to_dict()["rows"]) == 7


def test_a_share_is_determined_that_a_card_had_made_of_a_time_a_weight() -> None:
    """The T4 makes a share of what its stack says of a weight, whose inverse of inverse is rounded to above 1."""
    (row,) = [row for row in read_field() if row.hardware == "t4" and row.role == "fit stack.dequant_efficiency"]
    found = predict_table([row])
    assert found.rows[0].predicted == pytest.approx(row.value, rel=1e-6)
    assert found.constants == {f"{row.source}, t4: stack.dequant_efficiency": pytest.approx(0.045156, rel=1e-3)}


def test_rules_of_thumb_are_bytes_over_claimed_rates(tmp_path: Path) -> None:
    on_demand, resident = read(tmp_path, ROW, ROW | {"policy": "gpu_only"})
    bench = RowBench()
    said = bench.rules_of_thumb(on_demand)
    assert said["link"] >= said["roofline"] > bench.predict(on_demand)
    assert set(bench.rules_of_thumb(resident)) == {"roofline"}


def test_a_stack_is_fitted_on_its_own_rows_only(tmp_path: Path) -> None:
    rows = read(tmp_path, *(ROW | {"role": "stack", "policy": policy} for policy in ("on_demand", "pregate")), ROW)
    right = [RowBench().predict(row, {"stack.sync_s": 40e-6}) for row in rows]
    changed = read(
        tmp_path, *(ROW | {"role": "stack", "policy": p, "value": f"{v:.9g}"}
                    for p, v in zip(("on_demand", "pregate"), right, strict=False)), ROW
    )  # fmt: skip
    assert fit_stack(changed, "streams", ["sync_s"])["sync_s"] == pytest.approx(40e-6, rel=1e-3)
    with pytest.raises(InvalidInput, match="2 rows of role stack"):
        fit_stack(changed, "streams", ["sync_s", "step_s", "launch_s"])
    with pytest.raises(UnknownName, match="constant 'sync'"):
        fit_stack(changed, "streams", ["sync"])
    with pytest.raises(InvalidInput, match="no constants of streams are named"):
        fit_stack(changed, "streams", [])


def test_the_table_that_ships_can_be_read_and_says_why_rows_are_left_out() -> None:
    rows = read_field()
    assert len(rows) > 430
    assert sum(row.is_scored for row in rows) > 80
    assert all(row.note for row in rows)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_only_where_a_process_ends_is_its_garbage_given_up(tmp_path: Path) -> None:
    frozen, collects = gc.get_freeze_count(), gc.isenabled()
    assert reproduce_table(str(table(tmp_path / "mine.csv", ROW)), None, None, None, 0, Format.csv) == 0
    assert (gc.get_freeze_count() <= frozen, gc.isenabled()) == (True, collects)


def test_a_table_is_reproduced_from_the_command_line(command: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "mine.csv", ROW)
    status, shown, _ = command("reproduce", str(path))
    assert status == 0
    assert "1 of 1 rows scored" in shown
    status, shown, _ = command("reproduce", str(path), "--hardware", "a100-sxm4-80gb", "--format", "json")
    assert status == 0
    assert json.loads(shown)["scores"][0]["n"] == 1
    assert "asked of" not in shown
    status, shown, said = command("reproduce", str(path), "--hardware", "nosuch")
    assert (status, shown) == (2, "")
    assert "unknown hardware 'nosuch'" in said
    status, shown, _ = command("reproduce", str(path), "--hardware", "a100-sxm4-80gb", "--set", "stack.sync_s=5us")
    assert "Each row was asked of a100-sxm4-80gb with stack.sync_s=5us: measured elsewhere, its error is" in shown
    status, _, said = command("reproduce", "isca24", "--fit-stack", "streams:sync_s")
    assert status == 2
    assert "are of tables" in said


def test_the_committed_predictions_are_those_of_today() -> None:
    """A handful of rows: the tables of docs/field.md are made of the file."""
    committed = json.loads((Path(__file__).parents[4] / "results" / "field.json").read_text())
    rows, bench = read_field(), RowBench()
    assert [row.name for row in rows] == [entry["name"] for entry in committed["rows"]]
    fitted = {row.machine for row in rows if row.role.startswith("fit")}  # they are predicted with a constant more
    asked = [row.is_scored and row.model == "qwen3-30b-a3b" and row.machine not in fitted for row in rows]
    cheap = [i for i, one in enumerate(asked) if one][:60:12]
    assert len(cheap) >= 3
    for i in cheap:
        assert committed["rows"][i]["predicted"] == pytest.approx(bench.predict(rows[i]), rel=1e-4)


def test_a_placement_may_stand_apart_from_the_policy(tmp_path: Path) -> None:
    apart = ROW | {"policy": "", "placement": "experts=cpu"}
    together = ROW | {"policy": "gpu_only@experts=cpu", "metric": "decode_throughput", "unit": "tok/s"}
    rows = read(tmp_path, apart, together)
    assert rows[0].design() == rows[1].design()
    assert rows[1].metric == "decode_tokens_per_s"
    assert RowBench().predict(rows[0]) == RowBench().predict(rows[1])


@pytest.mark.parametrize(
    ("design", "constant"),
    [("gpu_only@experts=cpu", "cpu_efficiency"), ("on_demand", "link_efficiency"), ("gpu_only", "hbm_efficiency")],
)
def test_a_fit_without_a_key_is_of_what_binds(design: str, constant: str, tmp_path: Path) -> None:
    row = ROW | {
        "model": "mixtral-8x7b",
        "policy": design,
        "role": "fit",
        "set": "hbm_bytes=200GB;host.dram_bytes=256GiB",
        "value": "1",
    }
    found = predict_table(read(tmp_path, row, row | {"role": ""}))
    assert list(found.constants) == [f"a test, rtx-4090: stack.{constant}"]
    assert found.rows[1].predicted == pytest.approx(1, rel=1e-2)


def published(path: Path, n: int) -> Path:
    (path / "isca24.csv").write_text("".join(PUBLISHED_ROWS.read_text().splitlines(keepends=True)[: n + 1]))
    return path / "isca24.csv"


def test_the_rows_of_isca24_are_a_table_like_any_other(tmp_path: Path) -> None:
    path = published(tmp_path, 8)
    theirs = reproduce("isca24", path).predictions
    table = predict_table(read_table(path))
    for one, other in zip(table.rows, theirs, strict=True):
        assert one.predicted == pytest.approx(other.predicted * 1e-3, rel=1e-12)  # milliseconds
        assert one.row.value == pytest.approx(other.row.value * 1e-3)
        assert one.row.routing == "isca24"
    (tmp_path / "again.csv").write_text("\n".join(line.rpartition(",")[0] for line in table.to_csv().splitlines()))
    assert [one.row for one in predict_table(read_table(tmp_path / "again.csv")).rows] == [
        one.row for one in table.rows
    ]


def test_the_workload_of_isca24_is_asked_of_another_card(command: Run, tmp_path: Path) -> None:
    path = published(tmp_path, 4)
    own, other = (
        json.loads(command("reproduce", "isca24", "--rows", str(path), "--format", "json", *more)[1])["rows"]
        for more in (("--set", "link.h2d_bytes_per_s=5GB/s"), ("--hardware", "rtx-4090"))
    )
    offloaded = [row["predicted"] for row in own if row["policy"] == "pregate"]
    assert offloaded[0] > next(row["predicted"] for row in other if row["policy"] == "pregate")
    status, _, said = command("reproduce", "isca24", "--set", "link.speed=3", "--rows", str(path), "--format", "csv")
    assert (status, "Traceback" in said) == (2, False)
    assert "link.speed" in said


def test_numbers_of_a_row_are_parsed_as_those_of_the_command_line(tmp_path: Path) -> None:
    for cell, words in (("sync_s", "not KEY=VALUE"), ("a=1;a=2", "a is given twice"), ("a=", "not KEY=VALUE")):
        (row,) = read(tmp_path, ROW | {"set": cell})
        with pytest.raises(InvalidInput, match=words):
            RowBench().platform(row)


@pytest.mark.parametrize("change", [{"routing": "isca24:many"}, {"routing": "isca24", "formats": "all=q8_0"},
                                    {"routing": "isca24", "metric": "ttft", "unit": "s"}])  # fmt: skip
def test_what_the_workload_of_isca24_has_not_is_refused(change: dict[str, str], tmp_path: Path) -> None:
    rows = read(tmp_path, ROW | change)
    (one,) = predict_table(rows).rows
    assert "routing" in one.reason
