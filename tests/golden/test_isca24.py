"""The published A100 measurements, predicted. The targets are the project's, set before the fit was made."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from hwmodels.fits.fit_files import load_fit
from pregate.measured.isca24.machine_fit import FIT_ROWS, is_fitted
from pregate.measured.isca24.published_rows import COLUMNS, read_rows
from pregate.measured.reproduction import PUBLISHED_ROWS, Reproduction, reproduce
from traces.errors import InvalidFile, UnknownName

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reproduction() -> Reproduction:
    return reproduce("isca24")


def errors(reproduction: Reproduction, metric: str, *, natural: bool = False) -> np.ndarray:
    found = [p.error for p in reproduction.predictions if p.row.metric == metric and p.row.natural_batch is natural]
    assert found
    return np.abs(found)


def test_moe_layer_latency_is_within_its_target(reproduction: Reproduction) -> None:
    assert errors(reproduction, "moe_layer_latency").mean() <= 0.025
    assert errors(reproduction, "moe_layer_latency").max() <= 0.07


def test_throughput_is_within_its_target(reproduction: Reproduction) -> None:
    assert errors(reproduction, "throughput").mean() <= 0.06


def test_peak_memory_is_within_its_target(reproduction: Reproduction) -> None:
    both = np.concatenate([errors(reproduction, "peak_gpu_memory", natural=n) for n in (False, True)])
    assert both.mean() <= 0.03


NATURAL = ("moe_layer_latency", "throughput", "peak_gpu_memory")


@pytest.mark.parametrize("batch", [4, 8, 16])
def test_every_row_of_a_natural_batch_is_within_ten_per_cent(reproduction: Reproduction, batch: int) -> None:
    rows = [p for p in reproduction.predictions if p.row.natural_batch and p.row.batch == batch]
    found = {p.row.name: p.error for p in rows if p.row.metric in NATURAL}
    assert len(found) == {4: 24, 8: 8, 16: 24}[batch]
    assert {name: error for name, error in found.items() if abs(error) > 0.10} == {}


def test_rows_of_natural_batches_that_no_constant_saw_are_as_good() -> None:
    """Other draws than the one that the fit had: five per cent on average."""
    rows = [p for p in reproduce("isca24", seed=5).predictions if p.row.natural_batch and not is_fitted(p.row)]
    for batch in (4, 16):
        unseen = [abs(p.error) for p in rows if p.row.batch == batch and p.row.metric in NATURAL[:2]]
        assert len(unseen) >= 16
        assert np.mean(unseen) <= 0.05
        assert max(unseen) <= 0.12


def test_the_most_active_experts_of_a_batch_are_within_one(reproduction: Reproduction) -> None:
    """One figure a batch: the largest of 1,536 unions."""
    rows = [p for p in reproduction.predictions if p.row.metric == "max_active_experts"]
    assert len(rows) == 24
    assert max(abs(p.predicted - p.row.value) for p in rows) <= 1


def test_hit_rates_are_within_three_points(reproduction: Reproduction) -> None:
    assert errors(reproduction, "cache_hit_rate").max() <= 0.03


def test_designs_rank_as_measured(reproduction: Reproduction) -> None:
    """Wherever two designs were measured on one configuration and differ by more than 5 %, the faster is predicted."""
    by_configuration: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for p in reproduction.predictions:
        if p.row.metric == "moe_layer_latency" and not p.row.natural_batch:
            key = (p.row.model, *p.row.configuration[2:])
            by_configuration.setdefault(key, []).append((p.row.value, p.predicted))
    n_pairs = 0
    for rows in by_configuration.values():
        for i, (measured, predicted) in enumerate(rows):
            for other_measured, other_predicted in rows[:i]:
                if abs(measured / other_measured - 1) > 0.05:
                    n_pairs += 1
                    assert (measured < other_measured) == (predicted < other_predicted)
    assert n_pairs > 20


def test_the_committed_accuracy_is_what_the_code_produces(reproduction: Reproduction) -> None:
    committed = json.loads((ROOT / "results" / "isca24.json").read_text())["accuracy"]
    fresh = {entry.group: entry for entry in reproduction.accuracy()}
    assert {entry["group"] for entry in committed} == set(fresh)
    for entry in committed:
        assert entry["mape"] == pytest.approx(fresh[entry["group"]].mape, rel=1e-7)  # kept to eight digits
        assert entry["worst_row"] == fresh[entry["group"]].worst_row


def test_csv_has_the_input_columns_and_the_prediction(reproduction: Reproduction) -> None:
    rows = list(csv.reader(io.StringIO(reproduction.to_csv())))
    given = list(csv.reader(io.StringIO(PUBLISHED_ROWS.read_text())))
    assert rows[0] == [*COLUMNS, "predicted"]
    assert [row[:-1] for row in rows[1:]] == given[1:]
    assert all(float(row[-1]) >= 0 for row in rows[1:])


def test_at_most_eight_constants_two_of_natural_batches() -> None:
    """Natural batches are fitted on four runs of batch 16, each by its latency and its throughput."""
    fit = load_fit("a100-sxm4-80gb.fastertransformer")
    assert len(fit.constants) + len(fit.assumptions) <= 8
    natural = {row.name for row in read_rows(PUBLISHED_ROWS) if row.natural_batch}
    rows = {row for names in FIT_ROWS.values() for row in names}
    assert len(rows - natural) <= 12
    assert len(rows & natural) <= 8
    assert len({name.rpartition("/")[0] for name in rows & natural}) == 4
    assert not any("switch-base-128" in name or "/b4/" in name for name in rows & natural)
    by_natural_rows = {name for name, names in FIT_ROWS.items() if natural & set(names)}
    assert by_natural_rows == {"gate_exponent", "pregate_exponent"}  # no constant of the machine
    entries = {**fit.constants, **fit.assumptions}
    assert {name: entry.rows for name, entry in entries.items()} == dict(FIT_ROWS)


def test_fitted_rows_exist_and_no_constant_is_of_a_model() -> None:
    names = {row.name for row in read_rows(PUBLISHED_ROWS)}
    assert {row for rows in FIT_ROWS.values() for row in rows} <= names


def row_text(**changes: str) -> str:
    cells = dict(
        zip(
            COLUMNS,
            ["switch-base-16", "pregate", "2", "", "none", "0", "dram", "moe_layer_latency", "1.3", "ms"],
            strict=True,
        )
    )
    return ",".join(COLUMNS) + "\n" + ",".join((cells | changes).values()) + "\n"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": "4", "forced_active_experts": "3"},
        {"design": "on_demand", "batch": "1", "cache_policy": "lfu", "cache_ratio": "0.4", "metric": "cache_hit_rate",
         "unit": "fraction", "value": "0.5"},
        {"design": "on_demand", "batch": "1", "cache_policy": "lifo", "cache_ratio": "0.1", "expert_tier": "ssd"},
        {"model": "switch-large-128", "batch": "1", "metric": "peak_gpu_memory", "unit": "bytes", "value": "6e9"},
        {"design": "gpu_only", "metric": "throughput", "unit": "tokens/s", "value": "100"},
    ],
)  # fmt: skip
def test_rows_never_seen_are_predicted(tmp_path: Path, changes: dict[str, str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(row_text(**changes))
    (prediction,) = reproduce("isca24", path).predictions
    assert prediction.predicted > 0
    if prediction.row.metric == "cache_hit_rate":
        assert prediction.predicted <= 1


def test_what_does_not_fit_the_machine_is_left_empty_and_the_rest_predicted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    resident = row_text(model="switch-large-128", design="gpu_only", batch="1")
    path.write_text(resident + row_text().splitlines()[1] + "\n")
    result = reproduce("isca24", path)
    cells = [line.split(",")[-1] for line in result.to_csv().splitlines()[1:]]
    assert cells[0] == ""
    assert float(cells[1]) > 0
    assert [entry.n for entry in result.accuracy()] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "pregated"}, "did you mean 'pregate'"),
        ({"metric": "latency"}, "unknown metric"),
        ({"unit": "s"}, "unit 's'"),
        ({"batch": "x"}, "line 2"),
        ({"batch": "0"}, "line 2"),
        ({"value": "nan"}, "line 2"),
        ({"cache_ratio": "2"}, "line 2"),
        ({"expert_tier": "tape"}, "unknown expert tier"),
    ],
)
def test_bad_rows_are_one_clear_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(row_text(**changes))
    with pytest.raises((InvalidFile, UnknownName), match=message):
        read_rows(path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidFile, match="columns are"):
        read_rows(path)
