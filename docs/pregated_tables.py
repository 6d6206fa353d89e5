"""The tables of docs/pre-gated-model.md, from the committed result of `pregate train`.

`python docs/pregated_tables.py` writes the recall curves of that result to offload/predictors/measured.csv.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "pregated-2026-11-28.json"
ENCODED = ROOT / "results" / "pregated-encoder-decoder-2026-11-28.json"
CURVES = ROOT / "offload" / "predictors" / "measured.csv"

_CURVE_NAMES = {
    ("conventional", "reuse"): "pregated_reuse",
    ("conventional", "trained"): "pregated_trained",
    ("predictable", "reuse"): "pregated_reuse_predictable",
    ("predictable", "trained"): "pregated_trained_predictable",
}
"""What the presets are called, by model and predictor."""


def _found(results: Path = RESULTS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(results.read_text())["findings"]
    return found


def _shown(estimate: dict[str, Any], scale: float = 1.0, digits: int = 4) -> str:
    return f"{scale * estimate['mean']:+.{digits}f} ± {scale * estimate['ci95']:.{digits}f}"


def encoded_arms() -> str:
    """As `arms`, of the model with an encoder."""
    return arms(ENCODED)


def arms(results: Path = RESULTS) -> str:
    """Loss and accuracy of every arm beside the conventional one, and how evenly its experts are used."""
    found = _found(results)
    lines = [
        "| arm | loss | loss, difference | accuracy, % | difference, points | busiest expert over mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        busiest = found["balance"][name]["busiest_over_mean"]["mean"]
        lines.append(
            f"| {name} | {arm['loss']['mean']:.4f} | {_shown(arm['loss_difference'])} | "
            f"{100 * arm['accuracy']['mean']:.2f} | {_shown(arm['accuracy_difference'], 100, 2)} | {busiest:.2f} |"
        )
    return "\n".join(lines)


def pairs() -> str:
    """Other paired differences of loss."""
    lines = ["| arm | beside | loss, difference |", "|---|---|---|"]
    lines += [f"| {pair['arm']} | {pair['beside']} | {_shown(pair['loss'])} |" for pair in _found()["pairs"]]
    return "\n".join(lines)


def recall() -> str:
    """How often each predictor names what the gate chooses, by model, lookahead and block."""
    rows = _found()["recall"]
    lines = ["| model | predictor | lookahead | all blocks | by block, first to last |", "|---|---|---|---|---|"]
    for whole in (row for row in rows if row["block"] is None):
        key = (whole["model"], whole["predictor"], whole["lookahead"])
        blocks = [
            f"{row['block']}: {row['mean']:.2f}"
            for row in rows
            if (row["model"], row["predictor"], row["lookahead"]) == key and row["block"] is not None
        ]
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {whole['mean']:.3f} ± {whole['ci95']:.3f} | {', '.join(blocks)} |"
        )
    return "\n".join(lines)


def verdict() -> str:
    """Which claims are seen, from the signs of the intervals."""
    found = _found()
    ahead = {name: arm["loss_difference"] for name, arm in found["arms"].items() if name.startswith("pregate_")}
    first, n = ahead["pregate_1"], ahead["pregate_1"]["n"]
    parity = abs(first["mean"]) <= first["ci95"]
    means = [estimate["mean"] for estimate in ahead.values()]
    said = [
        f"- **Parity one block ahead: {'not contradicted' if parity else 'not seen'}.** The loss differs by "
        f"{_shown(first)} nats a token (95 %, t over {n} seeds), the accuracy by "
        f"{_shown(found['arms']['pregate_1']['accuracy_difference'], 100, 2)} points.",
        f"- **A slow decline further ahead: {'seen' if means == sorted(means) else 'not seen'}.** "
        + ", ".join(f"{name[-1]} ahead {_shown(estimate)}" for name, estimate in ahead.items())
        + ".",
        "- **Gates need fine-tuning where they sit: "
        + ("seen" if all(p["loss"]["mean"] > p["loss"]["ci95"] for p in found["pairs"][:6]) else "not seen")
        + ".** Reused without it, one block ahead, they cost "
        + f"{_shown(found['arms']['reuse_1']['loss_difference'])}; trained on a frozen model "
        + f"{_shown(found['arms']['frozen_1']['loss_difference'])}.",
        "- **A model that is better pre-gated than conventional (the paper's SQuAD rows): "
        + ("seen" if first["mean"] < -first["ci95"] else "not seen")
        + ".**",
    ]
    return "\n".join(said)


def curves() -> str:
    """The recall curves as offload/predictors/measured.csv has them, by lookahead and block."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    plan, text = found["plan"], found["text"]
    model = f"decoder of {plan['n_blocks']} MoE blocks, {plan['n_experts']} experts, top-{plan['top_k']}, gates %s"
    metric = f"recall, mean of {plan['n_seeds']} seeds, on held-out text: {text['source']}"
    written = io.StringIO()
    columns = ("name", "model", "metric", "ahead", "more", "layer", "recall", "source", "date")
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(columns)
    for (gates, predictor), name in _CURVE_NAMES.items():
        for row in found["findings"]["recall"]:
            if (row["model"], row["predictor"]) == (gates, predictor) and row["block"] is not None:
                figure = f"{row['mean']:.4f}"
                about = (row["lookahead"], 0, row["block"], figure, f"results/{RESULTS.name}", RESULTS.stem[-10:])
                rows.writerow((name, model % gates, metric, *about))
    return written.getvalue()


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    CURVES.write_text(curves(), encoding="utf-8")
