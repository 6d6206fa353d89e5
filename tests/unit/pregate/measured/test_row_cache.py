"""Rows that are kept on disk: who asks again has the same table, and pays for what has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pregate
from hwmodels.stacks import stack_files
from pregate.ask.capturing import answer_cache, schedule_cache
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.measured.isca24.predicted_rows import Workbench
from pregate.measured.isca24.published_rows import Row
from pregate.measured.reproduction import PUBLISHED_ROWS, reproduce
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.table_prediction import predict_table
from pregate.measured.table_scores import TablePrediction
from tests.command_line import Run
from tests.grids import some_of
from tests.table_rows import ROW, read, table
from traces.recorded import dials

Asked = list[str]

TABLE = {
    "decode": ROW | {"name": "decode"},
    "ttft": ROW | {"name": "ttft", "metric": "ttft", "unit": "ms"},
    "other stack": ROW | {"name": "other stack", "stack": "llama-cpp", "hardware": "rtx-3090"},
    "link": ROW | {"name": "link", "metric": "h2d_bytes_per_s", "unit": "GB/s", "value": "20"},
    "memory": ROW | {"name": "memory", "metric": "peak_hbm_bytes", "unit": "GB", "value": "1"},
    "refused": ROW | {"name": "refused", "policy": "gpu_only", "model": "mixtral-8x7b"},
    "forced": ROW | {
        "name": "forced", "model": "switch-base-8", "routing": "isca24:2", "batch": "4", "stack": "fastertransformer",
        "hardware": "a100-sxm4-80gb", "metric": "moe_layer_latency", "unit": "ms", "value": "3",
    },
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The names of the rows that are predicted, each time one is."""
    names, predict = Asked(), RowBench.predict

    def told(bench: RowBench, row: MeasuredRow, constants: dict[str, float] | None = None) -> float:
        names.append(row.name)
        return predict(bench, row, constants)

    monkeypatch.setattr(RowBench, "predict", told)
    return names


def rows(tmp_path: Path, **changed: dict[str, str]) -> list[MeasuredRow]:
    return read(tmp_path, *(cells | changed.get(name, {}) for name, cells in TABLE.items()))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TablePrediction]:
    """A folder in which every row of `TABLE` is kept, and the table."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "kept", predict_table(rows(folder), cache_dir=folder / "kept")


@pytest.fixture
def kept(first: tuple[Path, TablePrediction], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(first[0], tmp_path / "kept"))


def anew(asked: Asked, ask: Callable[[], TablePrediction]) -> tuple[TablePrediction, list[str]]:
    """A table, and the rows that were predicted for it, as they stand in `TABLE`."""
    asked.clear()
    return ask(), sorted(dict.fromkeys(asked), key=[*TABLE, *asked].index)


def test_a_table_asked_again_is_the_same_to_the_last_bit_and_predicts_no_row(tmp_path: Path, asked: Asked) -> None:
    plain, every = anew(asked, lambda: predict_table(rows(tmp_path)))
    first, _ = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=tmp_path / "kept"))
    again, none = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=tmp_path / "kept"))
    assert every == list(TABLE)
    assert none == []
    assert {one.row.name for one in plain.rows if one.reason} == {"refused"}
    assert json.dumps(plain.to_dict()) == json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert [one.elasticities for one in plain.rows] == [one.elasticities for one in again.rows]
    assert len(list((tmp_path / "kept").glob("*.answer"))) == 2 * len(TABLE) - 1  # of a refusal nothing else


@pytest.mark.parametrize(
    "change",
    [
        {"batch": "2"}, {"metric": "tpot", "unit": "ms"}, {"model": "switch-mini-16?top_k=2"}, {"stack": "llama-cpp"},
        {"set": "link.h2d_bytes_per_s=7e9"}, {"formats": "all=fp16"}, {"link": "pcie3-x16"},
        {"policy": "gpu_only", "placement": "experts=cpu"},
        *some_of([
            {"input_tokens": "5"}, {"output_tokens": "7"}, {"policy": "pregate"}, {"hardware": "rtx-3090"},
            {"expert_tier": "ssd"}, {"context_tokens": "9"}, {"host": "ryzen-7950x"}, {"policy": "on_demand+lru:0.5"},
        ], ()),
    ],
)  # fmt: skip
def test_an_edited_row_alone_is_predicted_anew(
    change: dict[str, str], tmp_path: Path, kept: Path, asked: Asked
) -> None:
    edited = rows(tmp_path, decode=change)
    found, predicted = anew(asked, lambda: predict_table(edited, cache_dir=kept))
    assert predicted == ["decode"]
    assert found.to_dict() == predict_table(edited).to_dict()


def test_what_was_measured_is_no_part_of_what_is_predicted(
    tmp_path: Path, first: tuple[Path, TablePrediction], kept: Path, asked: Asked
) -> None:
    edited = rows(tmp_path, decode={"value": "200", "note": "measured again"})
    found, predicted = anew(asked, lambda: predict_table(edited, cache_dir=kept))
    assert predicted == []
    assert found.rows[0].predicted == first[1].rows[0].predicted
    assert found.rows[0].error != first[1].rows[0].error
    assert found.to_dict() == predict_table(edited).to_dict()


def test_a_row_that_determines_a_constant_is_part_of_all_of_its_machine(tmp_path: Path, asked: Asked) -> None:
    fit = ROW | {"name": "fit", "role": "fit link.h2d_bytes_per_s"}
    claimed = predict_table(rows(tmp_path)).rows[0].predicted
    values = [str(claimed * share) for share in (0.9, 0.8)]

    def ask(value: str) -> TablePrediction:
        found = read(tmp_path, fit | {"value": value}, *TABLE.values())
        return predict_table(found, cache_dir=tmp_path / "kept")

    first, of_first = anew(asked, lambda: ask(values[0]))
    again, none = anew(asked, lambda: ask(values[0]))
    other, of_machine = anew(asked, lambda: ask(values[1]))
    assert set(of_first) == {"fit", *TABLE}
    assert none == []
    assert again.to_dict() == first.to_dict()
    assert set(of_machine) == {"fit"} | {name for name, row in TABLE.items() if row["hardware"] == ROW["hardware"]}
    assert other.constants != first.constants
    assert other.to_dict() == predict_table(read(tmp_path, fit | {"value": values[1]}, *TABLE.values())).to_dict()


def test_an_edited_stack_is_asked_anew_and_no_other(
    tmp_path: Path, kept: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stacks"
    shutil.copytree(stack_files.STACKS_DIR, folder)
    file = folder / "llama-cpp.yaml"
    text = file.read_text()
    assert "step_s: {value: " in text
    file.write_text(text.replace("step_s: {value: ", "step_s: {value: 1"))
    monkeypatch.setattr(stack_files, "STACKS_DIR", folder)
    stack_files._stack_of_file.cache_clear()
    try:
        found, predicted = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=kept))
        assert predicted == ["other stack"]
        assert found.to_dict() == predict_table(rows(tmp_path)).to_dict()
    finally:
        stack_files._stack_of_file.cache_clear()


def test_edited_machines_models_dials_seeds_and_code_are_asked_anew(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predicted(**how: object) -> list[str]:
        return anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=tmp_path / "kept", **how))[1]  # type: ignore[arg-type]

    assert predicted() == list(TABLE)
    assert predicted(seed=1) == list(TABLE)
    assert predicted(hardware="rtx-3060-12gb") == list(TABLE)
    assert predicted(overrides={"stack.sync_s": "1ms"}) == list(TABLE)
    assert predicted() == []
    n_layers = RowBench().model(rows(tmp_path)[0]).n_moe_layers
    fitted = {"zipf_exponent": [1.0] * n_layers, "repeat_probability": 0.5, "layer_correlation": 0.0}
    models, document = {ROW["model"]: {"dials": fitted, "trace": "another"}}, dials._document()
    with monkeypatch.context() as edited:
        edited.setattr(dials, "_document", lambda: document | {"models": models})
        assert "decode" in predicted()
    assert predicted() == []
    monkeypatch.setattr(answer_cache, "_code", lambda: "another version")
    assert predicted() == list(TABLE)


@pytest.mark.parametrize("damage", ["cut", "emptied", "another's", "a flipped digit", "no seal", "a folder"])
def test_a_broken_row_is_predicted_anew(
    damage: str, tmp_path: Path, first: tuple[Path, TablePrediction], kept: Path, asked: Asked
) -> None:
    cache = ScheduleCache(kept)
    texts = {path: path.read_text() for path in sorted(cache.folder.glob("*.answer"))}
    for path, other in zip(texts, [*list(texts)[1:], *texts], strict=False):
        text = texts[path]
        if damage == "a folder":
            path.unlink()
            path.mkdir()
            continue
        path.write_text(
            {
                "cut": text[:-9],
                "emptied": "",
                "another's": texts[other],
                "a flipped digit": text.translate(str.maketrans("0123456789", "1234567890")),
                "no seal": json.dumps({"answer": json.loads(text)["answer"]}),
            }[damage]
        )
    again, predicted = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=cache))
    assert predicted == list(TABLE)
    assert again.to_dict() == first[1].to_dict()


@pytest.mark.parametrize("folder", ["gone", "a file", "read-only"])
def test_a_folder_that_keeps_nothing_is_done_without(folder: str, tmp_path: Path, asked: Asked) -> None:
    cache = ScheduleCache(tmp_path / "kept")
    match folder:
        case "read-only":
            cache.folder.chmod(0o555)
        case _:
            cache.folder.rmdir()
            if folder == "a file":
                cache.folder.write_text("no folder")
    plain = predict_table(rows(tmp_path))
    for _ in range(2):
        found, predicted = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=cache))
        assert predicted == list(TABLE) or (folder == "read-only" and os.geteuid() == 0)  # to root nothing is
        assert found.to_dict() == plain.to_dict()


def test_a_policy_of_a_users_own_is_predicted_every_time(tmp_path: Path, asked: Asked) -> None:
    (tmp_path / "mine.py").write_text("from pregate import Policy\n\nP = Policy('mine', prefetch=lambda view: [])\n")
    row = ROW | {"name": "own", "policy": f"{tmp_path / 'mine.py'}:P"}
    pregate.load_policy(row["policy"])
    for _ in range(2):
        _, predicted = anew(asked, lambda: predict_table(read(tmp_path, row), cache_dir=tmp_path / "kept"))
        assert predicted == ["own"]
    assert not list((tmp_path / "kept").iterdir())


def test_the_command_keeps_rows_unless_it_is_told_not_to(
    tmp_path: Path, run: Run, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_cache, "DEFAULT_FOLDER", tmp_path / "kept")
    path = table(tmp_path / "t.csv", *TABLE.values())
    plain = run("reproduce", str(path), "--format", "csv", "--no-cache")
    assert not (tmp_path / "kept").exists()
    assert run("reproduce", str(path), "--format", "csv") == plain
    asked.clear()
    assert run("reproduce", str(path), "--format", "csv") == plain
    assert asked == []
    assert run("reproduce", str(path), "--format", "csv", "--no-cache") == plain
    assert set(asked) == set(TABLE)


def test_published_rows_are_kept_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = PUBLISHED_ROWS.read_text().splitlines()
    of_one_model = [line for line in lines[1:] if line.startswith("switch-base-8,")]
    path, kept, names, value = tmp_path / "r.csv", tmp_path / "kept", [], Workbench.value

    def told(bench: Workbench, row: Row) -> float:
        names.append(row.name)
        return value(bench, row)

    monkeypatch.setattr(Workbench, "value", told)
    path.write_text("\n".join([lines[0], *of_one_model[:3]]) + "\n")
    plain = reproduce("isca24", path)
    assert reproduce("isca24", path, cache_dir=kept).to_dict() == plain.to_dict()
    names.clear()
    path.write_text("\n".join([lines[0], *of_one_model[:4]]) + "\n")
    again = reproduce("isca24", path, cache_dir=kept)
    assert [p.predicted for p in again.predictions[:3]] == [p.predicted for p in plain.predictions]
    assert names == [again.predictions[3].row.name]
    names.clear()
    other = reproduce("isca24", path, seed=1, cache_dir=kept)
    assert names == [p.row.name for p in other.predictions]


def test_predictions_alone_are_the_same_and_ask_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict_table(rows(tmp_path))
    with monkeypatch.context() as bare:
        bare.delattr(RowBench, "rules_of_thumb")
        bare.delattr(RowBench, "elasticities")
        found = predict_table(rows(tmp_path), cache_dir=tmp_path / "kept", explained=False)
    assert found.to_csv() == whole.to_csv()
    assert not any(one.baselines or one.elasticities for one in found.rows)


def test_a_table_after_predictions_alone_asks_for_what_is_missing(tmp_path: Path, asked: Asked) -> None:
    predict_table(rows(tmp_path), cache_dir=tmp_path / "kept", explained=False)
    found, predicted = anew(asked, lambda: predict_table(rows(tmp_path), cache_dir=tmp_path / "kept"))
    assert predicted == []
    assert found.to_dict() == predict_table(rows(tmp_path)).to_dict()


def test_rows_of_one_workload_are_asked_one_after_the_other_shorter_ones_first(tmp_path: Path, asked: Asked) -> None:
    shapes = {"long": ("12", ""), "other model": ("4", "switch-base-8"), "short": ("4", "")}
    cells = [
        ROW | {"name": name, "input_tokens": n, "model": model or ROW["model"]} for name, (n, model) in shapes.items()
    ]
    asked.clear()
    found = predict_table(read(tmp_path, *cells))
    assert [one.row.name for one in found.rows] == list(shapes)
    assert [name for name in asked if name != "other model"] == ["short", "long"]
