"""`pregate.train`: gates moved ahead in a small model, trained and fine-tuned on this machine, and what came of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pregate.ask.result_display import html_rows, to_dataframe
from pregate.extras import require_torch
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import require_writable, whole_file
from traces.foundation.documents import read_text

if TYPE_CHECKING:
    import pandas as pd

    from runtime.pregated.training.experiment_plan import ExperimentPlan


_MOST = 1_000_000


@dataclass(frozen=True, slots=True, repr=False)
class GateStudy:
    """Gate positions compared: `plan` and `text` are what was trained, `seeds` what each arm of each was judged to be.

    `findings`: `arms`, `pairs`, `balance` and `recall`, means over seeds with half a 95 % interval (`ci95`).
    """

    plan: dict[str, Any]
    text: dict[str, Any]
    seeds: list[dict[str, Any]]
    findings: dict[str, Any]
    versions: dict[str, str]

    def __repr__(self) -> str:
        return f"GateStudy({len(self.seeds)} seeds, arms {', '.join(self.findings['arms'])})"

    def _repr_html_(self) -> str:
        return html_rows(self.rows(), f"differences from the conventional arm, 95 % over {len(self.seeds)} seeds")

    def rows(self) -> list[dict[str, Any]]:
        """A row an arm: loss in nats a token, accuracy, and what each differs by from the conventional arm."""
        return [
            {
                "arm": name,
                "loss": arm["loss"]["mean"],
                "loss_difference": arm["loss_difference"]["mean"],
                "loss_difference_ci95": arm["loss_difference"]["ci95"],
                "accuracy": arm["accuracy"]["mean"],
                "accuracy_difference": arm["accuracy_difference"]["mean"],
                "accuracy_difference_ci95": arm["accuracy_difference"]["ci95"],
                "n_seeds": arm["loss"]["n"],
            }
            for name, arm in self.findings["arms"].items()
        ]

    def recall(self, predictor: str, lookahead: int = 1, model: str = "conventional") -> float:
        """Mean share of experts that `predictor` named `lookahead` blocks ahead. Raises `KeyError` where none is."""
        for row in self.findings["recall"]:
            if (row["model"], row["predictor"], row["lookahead"], row["block"]) == (model, predictor, lookahead, None):
                return float(row["mean"])
        raise KeyError((model, predictor, lookahead))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}

    def to_dataframe(self) -> pd.DataFrame:
        """`rows` as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.rows())


def train(
    output: str | Path,
    *,
    short: bool = False,
    text: str | Path | None = None,
    layout: str = "decoder",
    seeds: int | None = None,
    base_steps: int | None = None,
    arm_steps: int | None = None,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> GateStudy:
    """Train a small model with conventional gates, move them 1, 2, 3 blocks ahead, fine-tune every arm alike, compare.

    `output`: the folder of models and result.json, which goes on with what it holds. `short`: seconds, which say that
    it runs and nothing about gates. `text`: a UTF-8 file; None: the documentation of Python. `layout`: "decoder" or
    "encoder-decoder". `seeds`, `base_steps`, `arm_steps`: in place of the plan's. `workers`: seeds side by side, a core
    each (None: 2, short 1). Needs PyTorch. Raises `InvalidInput`, and `InvalidFile` for a folder of other work.
    """
    require_torch()
    folder = Path(output)
    require_writable(folder)
    from runtime.pregated.corpus.text import corpus_of_file

    if workers is not None and workers < 1:
        raise InvalidInput(f"workers = {workers}: at least 1")
    plan = _plan(short, layout, seeds, base_steps, arm_steps)
    corpus = None if text is None else corpus_of_file(Path(text))
    from runtime.pregated.training.experiment import run_experiment
    from runtime.pregated.training.findings import findings

    document = run_experiment(plan, folder, corpus, workers or (1 if short else 2), progress)
    versions = {"python": platform.python_version(), "torch": version("torch")}
    shape = document["plan"] | {"lookaheads": list(plan.lookaheads)}
    study = GateStudy(shape, document["text"], document["seeds"], findings(document), versions)
    with whole_file(folder / "result.json") as path:
        path.write_text(json.dumps(study.to_dict(), indent=1) + "\n")
    return study


def load_gate_study(path: str | Path) -> GateStudy:
    """The result.json of `train`. Raises `InvalidFile` for anything else."""
    parts = {"plan": dict, "text": dict, "seeds": list, "findings": dict, "versions": dict}
    try:
        found = json.loads(read_text(Path(path), 64 << 20))
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: cannot be read ({error})") from None
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in parts.items()):
        raise InvalidFile(f"{path}: is no result of pregate train: that has {', '.join(parts)}")
    study = GateStudy(**{name: found[name] for name in parts})
    try:
        study.rows(), study.recall("reuse")  # whether they are there
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidFile(f"{path}: is no result of pregate train: its findings are not whole") from None
    return study


def _plan(short: bool, layout: str, seeds: int | None, base_steps: int | None, arm_steps: int | None) -> ExperimentPlan:
    """The plan that the options change. Raises `InvalidInput`."""
    from runtime.pregated.training.experiment_plan import FULL, SHORT

    if max(seeds or 0, base_steps or 0, arm_steps or 0) > _MOST:
        raise InvalidInput(f"seeds and steps: at most {_MOST:,} each")
    plan = SHORT if short else FULL
    return replace(
        plan,
        layout=layout,
        n_seeds=plan.n_seeds if seeds is None else seeds,
        base_steps=plan.base_steps if base_steps is None else base_steps,
        arm_steps=plan.arm_steps if arm_steps is None else arm_steps,
    )
