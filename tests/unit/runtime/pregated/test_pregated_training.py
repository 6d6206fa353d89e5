"""The experiment with gate positions: its text and tokens, its evaluation, its statistics, and that it goes on."""

from __future__ import annotations

import json
import math
import resource
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

import pregate
from runtime.pregated.corpus.batches import drawn_batch, fixed_batches
from runtime.pregated.corpus.text import Corpus, corpus_of_file, python_documentation
from runtime.pregated.corpus.tokens import Tokenizer, learn_tokens
from runtime.pregated.model_file import load_trained, save_model
from runtime.pregated.predictors import Predictors, RecallCounts
from runtime.pregated.training import experiment
from runtime.pregated.training.evaluation import balance_loss, load_balance, loss_and_accuracy, recalls
from runtime.pregated.training.experiment import run_experiment
from runtime.pregated.training.experiment_plan import SHORT, ExperimentPlan
from runtime.pregated.training.findings import findings, recall_curves, seed_estimate
from runtime.pregated.training.training import train, train_predictors
from runtime.pregated.training.training_settings import Schooling
from runtime.pregated.transformer import Routing, choose_experts
from tests.command_line import Run
from tests.grids import some_of
from tests.pregated_models import seeded_model
from traces.errors import InvalidFile, InvalidInput

TINY = replace(SHORT, base_steps=3, arm_steps=2, rows=4, length=8, held_out=4)


def test_merges_are_the_most_frequent_pairs_by_hand() -> None:
    tokens = learn_tokens("abab\nabab\nabc", 258)
    assert tokens.merges == ((97, 98), (256, 256))  # "ab" five times, then "abab" twice
    assert tokens.encode("abab").tolist() == [257]
    assert tokens.encode("aba").tolist() == [256, 97]


@given(st.text(max_size=80))
def test_what_is_encoded_is_decoded_again(text: str) -> None:
    tokens = learn_tokens("the cat and the hat and the bat that sat there", 262)
    assert tokens.decode(tokens.encode(text)) == text
    assert int(tokens.encode(text).max(initial=0)) < tokens.n_tokens


def test_a_text_without_enough_pairs_and_a_merge_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="has only 257 tokens to learn, not 300"):
        learn_tokens("ab", 300)
    with pytest.raises(InvalidInput, match="at least 256"):
        learn_tokens("ab", 255)
    with pytest.raises(InvalidInput, match="merge 0 joins"):
        Tokenizer(((256, 97),))


def test_documents_are_held_out_whole_and_the_same_ones_always() -> None:
    here, there = python_documentation(docstrings=False), python_documentation(docstrings=False)
    assert here.digest == there.digest
    assert 0.02 < len(here.held_out) / (len(here.train) + len(here.held_out)) < 0.4
    assert here.licence == "PSF-2.0"


def test_a_text_of_ones_own_is_split_by_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n\n".join(f"paragraph {i} says {i * i} and no more of it than that" for i in range(400)))
    corpus = corpus_of_file(path)
    assert corpus.source == "own.txt"
    assert not set(corpus.train.split("\n\n")) & set(corpus.held_out.split("\n\n"))


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff\xfe\x00", "not UTF-8 text"), (b"short", "at least 1024 each are needed")]
)
def test_a_file_that_is_no_text_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=told):
        corpus_of_file(path)


def test_windows_hold_each_next_token() -> None:
    text = np.arange(100)
    drawn = drawn_batch(text, 5, 10, np.random.default_rng(0))
    assert torch.equal(drawn.tokens + 1, drawn.targets)
    halves = drawn_batch(text, 5, 10, np.random.default_rng(0), encoded=True)
    assert halves.source is not None
    assert torch.equal(halves.source[:, -1] + 1, halves.tokens[:, 0])
    fixed = fixed_batches(text, 7, 3, 10)
    assert [len(batch.tokens) for batch in fixed] == [3, 3, 1]
    assert torch.cat([batch.tokens for batch in fixed]).flatten().tolist() == list(range(70))
    with pytest.raises(InvalidInput, match="has no window of 100"):
        fixed_batches(text, 1, 1, 100)


def test_experts_that_share_evenly_have_a_balance_loss_of_one() -> None:
    even = choose_experts(torch.eye(4) * 1e-6, 1)
    assert float(balance_loss(Routing([even], [torch.zeros(4, 2)]))) == pytest.approx(1.0)
    alone = choose_experts(torch.tensor([[50.0, 0, 0, 0]]).expand(4, 4), 1)
    assert float(balance_loss(Routing([alone], [torch.zeros(4, 2)]))) == pytest.approx(4.0)


def test_balance_of_counts_by_hand() -> None:
    found = load_balance(torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]]))
    assert found["busiest_over_mean"] == pytest.approx([1, 4, 2])
    assert found["effective_share"] == pytest.approx([1, 0.25, 0.5])


def test_a_model_is_judged_by_the_mean_over_all_tokens() -> None:
    model = seeded_model(0)
    text = np.random.default_rng(0).integers(0, 288, 200)
    whole, parts = (loss_and_accuracy(model, fixed_batches(text, 12, rows, 8)) for rows in (12, 5))
    assert whole["n_tokens"] == parts["n_tokens"] == 96
    assert whole["loss"] == pytest.approx(parts["loss"])
    assert whole["accuracy"] == parts["accuracy"]
    assert 0 <= whole["accuracy"] <= 1 < whole["loss"]


def test_recall_counts_experts_found_by_hand() -> None:
    counts = RecallCounts()
    counts.add("x", 1, 2, torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 2], [3, 2]]))
    assert counts.rows() == [{"predictor": "x", "lookahead": 1, "block": 2, "recall": 0.75, "n": 4}]


def test_untrained_predictors_find_what_reuse_finds_and_trained_ones_more() -> None:
    model = seeded_model(2)
    text = np.random.default_rng(0).integers(0, 288, 400)
    batches, predictors = fixed_batches(text, 20, 20, 8), Predictors(list(model.decoder.gates), (1, 2))
    before = {
        (row["predictor"], row["lookahead"], row["block"]): row["recall"]
        for row in recalls(model, predictors, batches, torch.ones(4, 4))
    }
    assert all(before["trained", n, block] == before["reuse", n, block] for _, n, block in before)
    weights = [parameter.clone() for parameter in model.parameters()]
    popular = train_predictors(model, predictors, text, Schooling(60, 16, 8, 0.05), np.random.default_rng(1))
    assert popular.sum(1).tolist() == [60 * 16 * 8] * 4
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))  # frozen
    after = recalls(model, predictors, batches, popular)
    trained, reused = (
        sum(float(str(row["recall"])) for row in after if row["predictor"] == name) for name in ("trained", "reuse")
    )
    assert trained > reused + 0.5


def test_a_gate_learns_to_be_guessed_where_that_is_asked() -> None:
    text = np.random.default_rng(0).integers(0, 40, 400)
    found = []
    for weight in (0.0, 1.0):
        model = seeded_model(3)
        predictors = Predictors(list(model.decoder.gates), (1,))
        how = Schooling(60, 8, 8, 0.01, predictable=weight)
        train(model, text, how, np.random.default_rng(0), predictors if weight else None)
        train_predictors(model, predictors, text, Schooling(40, 8, 8, 0.02), np.random.default_rng(1))
        rows = recalls(model, predictors, fixed_batches(text, 40, 40, 8), torch.ones(4, 4))
        found.append(np.mean([float(str(row["recall"])) for row in rows if row["predictor"] == "trained"]))
    assert found[1] > found[0]


def test_training_lowers_the_loss_and_the_same_seed_ends_the_same() -> None:
    text = np.tile(np.arange(30), 20)
    ends = []
    for _ in range(2):
        model = seeded_model(4)
        train(model, text, Schooling(30, 8, 8, 0.01), np.random.default_rng(0))
        ends.append(loss_and_accuracy(model, fixed_batches(text, 10, 10, 8)))
    assert ends[0] == ends[1]
    assert ends[0]["loss"] < loss_and_accuracy(seeded_model(4), fixed_batches(text, 10, 10, 8))["loss"] - 1


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rate": 0.0}, {"rows": -1}, {"balance": -1.0}])
def test_a_training_of_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        replace(Schooling(1, 1, 8, 0.1), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"n_seeds": 1}, {"lookaheads": (1, 3)}, {"lookaheads": (1, 2, 3, 4)}, {"d_model": 33}, {"layout": "both"},
     {"length": 2}, {"base_steps": 0}, {"lookaheads": ()}],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        replace(SHORT, **wrong)  # type: ignore[arg-type]


def test_intervals_are_students_t_over_seeds() -> None:
    found = seed_estimate([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.ci95 == pytest.approx(4.302653 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-6)
    ours, theirs = np.array([1.0, 2.0, 3.5, 3.0]), np.array([0.5, 2.2, 2.0, 2.1])
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    paired = seed_estimate((ours - theirs).tolist())
    assert (paired.mean - paired.ci95, paired.mean + paired.ci95) == pytest.approx(tuple(interval))
    assert (seed_estimate([1, 1.1]).sign, seed_estimate([-1, -1.1]).sign, seed_estimate([-1, 1]).sign) == (1, -1, 0)
    with pytest.raises(InvalidInput, match="1 seeds have no confidence interval"):
        seed_estimate([1.0])


def test_curves_are_means_of_blocks_then_of_seeds() -> None:
    def seed(a: float, b: float) -> dict[str, object]:
        row = {"predictor": "reuse", "lookahead": 1, "n": 9}
        return {"recall": {"m": [row | {"block": 1, "recall": a}, row | {"block": 2, "recall": b}]}}

    rows = recall_curves([seed(0.1, 0.3), seed(0.3, 0.5)])
    assert [(row["block"], row["mean"]) for row in rows] == [
        (None, pytest.approx(0.3)), (1, pytest.approx(0.2)), (2, pytest.approx(0.4)),
    ]  # fmt: skip
    assert {row["n"] for row in rows} == {2}


def corpus() -> Corpus:
    words = " ".join(f"word{i % 17} of {i % 23}" for i in range(900))
    return Corpus(words, words[::-1], "made up", "none")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("experiment")
    return folder, run_experiment(TINY, folder, corpus())


def test_every_arm_is_judged_on_the_same_tokens(done: tuple[Path, dict[str, object]]) -> None:
    document = json.loads(json.dumps(done[1]))
    for seed in document["seeds"]:
        assert {arm["n_tokens"] for arm in seed["arms"].values()} == {32}
        assert set(seed["arms"]) == {
            "before", "conventional", "pregate_1", "pregate_2", "predictable", "reuse_1", "reuse_2", "frozen_1",
            "frozen_2", "reuse_predictable_1", "reuse_predictable_2", "frozen_predictable_1", "frozen_predictable_2",
        }  # fmt: skip
    found = findings(document)
    assert found["arms"]["conventional"]["loss_difference"] == {"mean": 0, "ci95": 0, "n": 2}
    arms = [seed["arms"] for seed in document["seeds"]]
    mean = np.mean([arm["pregate_1"]["loss"] - arm["conventional"]["loss"] for arm in arms])
    assert found["arms"]["pregate_1"]["loss_difference"]["mean"] == pytest.approx(mean)


def test_what_was_cut_off_goes_on_to_the_same_end(done: tuple[Path, dict[str, object]]) -> None:
    folder, document = done
    kept = folder / "seed-1" / "judged.json"
    half = json.loads(kept.read_text())
    del half["arms"]["pregate_2"], half["recall"]
    kept.write_text(json.dumps(half))
    before = (folder / "seed-0" / "base.safetensors").stat().st_mtime_ns
    assert json.loads(json.dumps(run_experiment(TINY, folder, corpus()))) == json.loads(json.dumps(document))
    assert (folder / "seed-0" / "base.safetensors").stat().st_mtime_ns == before  # nothing is trained twice


def test_what_stages_kept_before_a_seed_was_done_is_not_done_again(
    done: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(done[0], folder)
    kept = folder / "seed-1" / "judged.json"
    whole = json.loads(kept.read_text())
    parts = {"base": ["before"], "pregate_1": ["pregate_1"], "recall": ["reuse_1"]}
    for stage, names in parts.items():
        found = {name: whole["arms"][name] for name in names}
        (folder / "seed-1" / f"judged-{stage}.json").write_text(json.dumps({"arms": found}))
    kept.unlink()
    before = (folder / "seed-1" / "pregate_1.safetensors").stat().st_mtime_ns
    again = run_experiment(TINY, folder, corpus())
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(done[1]))
    assert (folder / "seed-1" / "pregate_1.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in (folder / "seed-1").glob("judged*")] == ["judged.json"]


def test_a_folder_of_another_plan_is_refused(done: tuple[Path, dict[str, object]]) -> None:
    with pytest.raises(InvalidFile, match="holds the work of another plan or text: name another folder"):
        run_experiment(replace(TINY, arm_steps=3), done[0], corpus())


def test_a_folder_goes_on_with_more_seeds(done: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    shutil.copytree(done[0], tmp_path / "more")
    before = (tmp_path / "more" / "seed-1" / "base.safetensors").stat().st_mtime_ns
    more = json.loads(json.dumps(run_experiment(replace(TINY, n_seeds=3), tmp_path / "more", corpus())))
    assert more["seeds"][:2] == json.loads(json.dumps(done[1]))["seeds"]
    assert len(more["seeds"]) == 3
    assert (tmp_path / "more" / "seed-1" / "base.safetensors").stat().st_mtime_ns == before
    fewer = json.loads(json.dumps(run_experiment(TINY, tmp_path / "more", corpus())))
    assert fewer == json.loads(json.dumps(done[1]))


@pytest.mark.parametrize("n_processes", some_of([1, 2], {1}))
def test_seeds_side_by_side_end_as_one_after_the_other(
    n_processes: int, done: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of two seeds in turn, in processes of their own: in one, which imports PyTorch once, and in two."""
    pool = partial(ProcessPoolExecutor, n_processes)
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda workers, **how: pool(**how))
    there = run_experiment(TINY, tmp_path / "beside", corpus(), workers=2)
    assert json.loads(json.dumps(there)) == json.loads(json.dumps(done[1]))


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    model, tokens = seeded_model(7, 2), learn_tokens("abab abab", 257)
    save_model(model, tokens, tmp_path / "m.safetensors")
    again, found = load_trained(tmp_path / "m.safetensors")
    assert (again.lookahead, again.architecture, found) == (2, model.architecture, tokens)
    assert torch.equal(again(torch.arange(6).view(1, 6))[0], model(torch.arange(6).view(1, 6))[0])


def test_a_model_that_finds_no_room_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit of 4 KiB a file stands for a full disk."""
    model, tokens = seeded_model(7, 2), learn_tokens("abab abab", 257)
    path = tmp_path / "m.safetensors"
    save_model(model, tokens, path)
    before = path.read_bytes()
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(InvalidFile, match="cannot be written"):
            save_model(model, tokens, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    assert [one.name for one in tmp_path.iterdir()] == ["m.safetensors"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"nothing", (8).to_bytes(8, "little") + b'{"a":{}}'])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"m\.safetensors"):
        load_trained(tmp_path / "m.safetensors")


def test_the_command_prints_differences_and_refuses_what_is_wrong(run: Run, tmp_path: Path) -> None:
    words = ["--short", "--base-steps", "2", "--arm-steps", "1", "-o", str(tmp_path / "out")]
    status, printed, told = run("train", *words, "--format", "json")
    assert status == 0, told
    assert json.loads(printed)["arms"]["pregate_1"]["loss_difference"]["n"] == 2
    assert json.loads((tmp_path / "out" / "result.json").read_text())["plan"]["arm_steps"] == 1
    fresh = ["--short", "-o", str(tmp_path / "fresh")]
    for line, wanted in (
        ([*words, "--layout", "encoder-decoder"], "name another folder"),
        ([*fresh, "--seeds", "1"], "--seeds 1: give 2 or more"),
        ([*fresh, "--layout", "both"], "known: decoder, encoder-decoder"),
        ([*fresh, "--text", str(tmp_path / "none.txt")], "cannot be read"),
        ([*fresh, "--arm-steps", "0"], "--arm-steps 0: give 1 or more"),
    ):
        status, _, told = run("train", *line)
        assert status == 2
        assert wanted in told
    assert not (tmp_path / "fresh").exists()


def test_the_full_plan_is_what_the_results_were_made_with() -> None:
    assert ExperimentPlan().n_seeds >= 5


def test_a_study_from_python_is_read_again_and_other_files_are_refused(tmp_path: Path) -> None:
    study = pregate.train(tmp_path / "one", short=True, seeds=2, base_steps=2, arm_steps=1)
    assert pregate.load_gate_study(tmp_path / "one" / "result.json") == study
    assert [row["arm"] for row in study.rows()][:2] == ["conventional", "pregate_1"]
    assert 0 <= study.recall("reuse") <= 1
    assert "<td>pregate_1</td>" in study._repr_html_()
    with pytest.raises(KeyError):
        study.recall("reuse", 9)
    for content in ("[]", "{", '{"plan": {}}', json.dumps(study.to_dict() | {"findings": {"arms": []}})):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(InvalidFile, match=r"other\.json"):
            pregate.load_gate_study(tmp_path / "other.json")
    with pytest.raises(InvalidInput, match="workers = 0"):
        pregate.train(tmp_path / "two", workers=0)
    assert not (tmp_path / "two").exists()
