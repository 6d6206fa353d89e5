"""The experiment: a conventional model from each seed, fine-tuned in every arm, judged on one evaluation set.

Everything is kept in a folder as it is done, so that what is cut off goes on with the stage it was in.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from runtime.pregated.corpus.batches import TextBatch, fixed_batches
from runtime.pregated.corpus.text import Corpus, python_documentation
from runtime.pregated.corpus.tokens import Tokenizer, learn_tokens
from runtime.pregated.model_file import load_trained, save_model
from runtime.pregated.predictors import Predictors, installed
from runtime.pregated.rewire import pregate_from
from runtime.pregated.training.evaluation import loss_and_accuracy, recalls
from runtime.pregated.training.experiment_plan import CONVENTIONAL, PREDICTABLE, ExperimentPlan
from runtime.pregated.training.training import train, train_predictors
from runtime.pregated.transformer import MoeTransformer
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import read_text

Say = Callable[[str], None]

_BASE, _RECALL = "base", "recall"
"""The stages of a seed besides its arms."""


def run_experiment(
    plan: ExperimentPlan, folder: Path, corpus: Corpus | None = None, workers: int = 1, say: Say = lambda _: None
) -> dict[str, Any]:
    """Run `plan` in `folder`, going on with what is there; `workers` stages of seeds side by side, a thread each.

    Returns `{"plan", "text", "seeds"}`: of each seed what every arm was judged to be. Raises `InvalidFile` when the
    folder holds another plan's work.
    """
    text = _prepare(plan, folder, corpus)
    if workers == 1:
        for seed in range(plan.n_seeds):
            for stage in _stages(plan):
                _run_stage(plan, folder, seed, stage, say)
    else:
        _side_by_side(plan, folder, workers, say)
    done = [_Seed(plan, folder, seed, say).joined() for seed in range(plan.n_seeds)]
    return {"plan": asdict(plan) | {"digest": plan.digest}, "text": text, "seeds": done}


def _prepare(plan: ExperimentPlan, folder: Path, corpus: Corpus | None) -> dict[str, Any]:
    """The text as tokens, and the plan, in the folder; what the text is."""
    about = folder / "plan.json"
    if about.exists():
        kept = _read_json(about)
        if not _is_of(kept, plan) or (corpus is not None and kept["text"]["digest"] != corpus.digest):
            raise InvalidFile(f"{folder}: holds the work of another plan or text: name another folder")
        text: dict[str, Any] = kept["text"]
        _write_json(about, {"digest": plan.digest, "text": text, "plan": asdict(plan)})
        return text
    found = python_documentation(docstrings=plan.docstrings) if corpus is None else corpus
    tokenizer = learn_tokens(found.train, plan.n_tokens)
    parts = {"train": tokenizer.encode(found.train), "held_out": tokenizer.encode(found.held_out)}
    text = {
        "source": found.source, "licence": found.licence, "digest": found.digest,
        "n_train": len(parts["train"]), "n_held_out": len(parts["held_out"]),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "text.safetensors") as unfinished:
            save_file(parts, unfinished, {"merges": json.dumps(tokenizer.merges)})
        _write_json(folder / "tokens.json", {"merges": tokenizer.merges})
        _write_json(about, {"digest": plan.digest, "text": text, "plan": asdict(plan)})
    except OSError as error:
        raise InvalidFile(f"{folder}: cannot be written ({error.strerror or error})") from error
    except SafetensorError as error:
        raise InvalidFile(f"{folder}: the text cannot be written ({str(error).splitlines()[0]})") from error
    return text


def _is_of(kept: dict[str, Any], plan: ExperimentPlan) -> bool:
    """Whether a folder holds work of `plan`, be it of more seeds or fewer."""
    mine: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    theirs = kept.get("plan")
    return isinstance(theirs, dict) and theirs | {"n_seeds": 0} == mine | {"n_seeds": 0}


def untrained(plan: ExperimentPlan, seed: int) -> MoeTransformer:
    """The conventional model of `plan` before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MoeTransformer(plan.architecture())


def _stages(plan: ExperimentPlan) -> dict[str, tuple[str, ...]]:
    """What a seed goes through, and the stages that each needs to be done: arms wait for the base alone."""
    return {_BASE: (), **dict.fromkeys(plan.arms, (_BASE,)), _RECALL: (CONVENTIONAL, PREDICTABLE)}


def _side_by_side(plan: ExperimentPlan, folder: Path, workers: int, say: Say) -> None:
    """All stages of all seeds, as early as they can: bases ahead of the arms of earlier seeds."""
    needs, n_seeds = _stages(plan), plan.n_seeds
    left = {(seed, stage) for seed in range(n_seeds) for stage in needs}
    first = sorted(left, key=lambda job: (job[0] - workers * (job[1] == _BASE), list(needs).index(job[1])))
    running: dict[Future[None], tuple[int, str]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        while left:
            ready = [job for job in first if all((job[0], need) not in left for need in needs[job[1]])]
            for job in ready[: workers - len(running)]:
                first.remove(job)
                running[pool.submit(_run_stage, plan, folder, *job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                job = running.pop(future)
                left.remove(job)
                if not any(seed == job[0] for seed, _ in left):
                    say(f"{n_seeds - len({seed for seed, _ in left})} of {n_seeds} seeds")


def _run_stage(plan: ExperimentPlan, folder: Path, seed: int, stage: str, say: Say = lambda _: None) -> None:
    """One stage of one seed; nothing where it is done. Raises `InvalidFile` where kept work cannot be read."""
    torch.set_num_threads(1)
    _Seed(plan, folder, seed, say).run(stage)


class _Seed:
    """What one seed has done so far: what its stages were judged to be, in a file each until all are joined."""

    def __init__(self, plan: ExperimentPlan, folder: Path, seed: int, say: Say) -> None:
        self.plan, self.seed, self.say = plan, seed, say
        self.folder = folder / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            parts = load_file(folder / "text.safetensors")
        except (OSError, SafetensorError) as error:
            raise InvalidFile(f"{folder}: its text cannot be read, name another folder ({error})") from error
        merges = _read_json(folder / "tokens.json")["merges"]
        self.tokenizer = Tokenizer(tuple((int(left), int(right)) for left, right in merges))
        self.text: NDArray[np.int64] = parts["train"]
        self.batches: list[TextBatch] = fixed_batches(
            parts["held_out"], plan.held_out, plan.rows, plan.length, encoded=plan.layout != "decoder"
        )
        self.kept = self.folder / "judged.json"
        self.judged: dict[str, Any] = _read_json(self.kept) if self.kept.exists() else {"seed": seed, "arms": {}}
        self.parts = [path for stage in _stages(plan) if (path := self._part(stage)).exists()]
        for found in map(_read_json, self.parts):
            self.judged["arms"] |= found.pop("arms")
            self.judged |= found

    def _part(self, stage: str) -> Path:
        return self.folder / f"judged-{stage}.json"

    def joined(self) -> dict[str, Any]:
        """All that was judged, in one file in place of those of the stages."""
        _write_json(self.kept, self.judged)
        for path in self.parts:
            path.unlink()
        return self.judged

    def run(self, stage: str) -> None:
        """Do what a stage has left to do; those that it needs are done."""
        self.before, self.stage = set(self.judged["arms"]), stage
        if stage == _BASE:
            self._judge("before", self._trained_base())
        elif stage != _RECALL:
            self._arm(stage)
        elif "recall" not in self.judged:
            self._guess()

    def _trained_base(self) -> MoeTransformer:
        path = self.folder / "base.safetensors"
        if path.exists():
            return load_trained(path)[0]
        model = untrained(self.plan, self.seed)
        self._train(model, "base")
        save_model(model, self.tokenizer, path)
        return model

    def _train(self, model: MoeTransformer, name: str, predictors: Predictors | None = None) -> None:
        """The same batches for every arm of a seed."""
        how = self.plan.base() if name == "base" else self.plan.arm(name)
        rng = np.random.default_rng([self.seed, name != "base"])
        train(model, self.text, how, rng, predictors, lambda at: self.say(f"seed {self.seed}, {name}: {at}"))

    def _arm(self, name: str) -> None:
        """Fine-tune and evaluate one arm; nothing where that is done."""
        if name in self.judged["arms"]:
            return
        model = pregate_from(load_trained(self.folder / "base.safetensors")[0], self.plan.arms[name])
        predictors = None
        if name == PREDICTABLE:
            predictors = Predictors(list(model.decoder.gates), self.plan.lookaheads)
        self._train(model, name, predictors)
        save_model(model, self.tokenizer, self.folder / f"{name}.safetensors")
        self._judge(name, model)

    def _judge(self, name: str, model: MoeTransformer) -> None:
        if name not in self.judged["arms"]:
            self.judged["arms"][name] = loss_and_accuracy(model, self.batches)
            self._keep()

    def _keep(self) -> None:
        """What this stage has judged so far, beside what an earlier run of it had kept."""
        path = self._part(self.stage)
        earlier = _read_json(path)["arms"] if path.exists() else {}
        mine = {name: found for name, found in self.judged["arms"].items() if name not in self.before}
        recall = {"recall": self.judged["recall"]} if self.stage == _RECALL and "recall" in self.judged else {}
        _write_json(path, {"arms": earlier | mine, **recall})

    def _guess(self) -> None:
        """The controls that nothing is fine-tuned for: gates reused, and predictors trained on a frozen model."""
        found = {}
        for name in (CONVENTIONAL, PREDICTABLE):
            model = load_trained(self.folder / f"{name}.safetensors")[0]
            predictors = Predictors(list(model.decoder.gates), self.plan.lookaheads)
            rng = np.random.default_rng([self.seed, 2])
            popular = train_predictors(model, predictors, self.text, self.plan.arm(CONVENTIONAL), rng)
            found[name] = recalls(model, predictors, self.batches, popular)
            for n in self.plan.lookaheads:
                suffix = "" if name == CONVENTIONAL else "_predictable"
                self._judge(f"reuse{suffix}_{n}", pregate_from(model, n))
                self._judge(f"frozen{suffix}_{n}", installed(model, predictors, n))
        self.judged["recall"] = found
        self._keep()


MAX_RESULT_BYTES = 64 << 20
"""Largest file of a study's folder that is read (64 MiB)."""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path, MAX_RESULT_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: cannot be read, name another folder ({error})") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{path}: is no mapping")
    return found


def _write_json(path: Path, what: dict[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(what, indent=1))
    unfinished.replace(path)
