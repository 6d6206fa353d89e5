"""The table of docs/pre-gated-model.md that says how trained models ran offloaded, their own gates deciding.

`python docs/offloaded_models.py FOLDER FIT` runs the models of the first seed that `pregate train -o FOLDER` has made,
on the CPU back end over a link of 200 MB/s, predicts the same on FIT, and writes results/offloaded.json.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "offloaded.json"
LINK_BYTES_PER_S = 200e6
PROMPT = "Return a list of the items in the container, in the order in which "
RUN = {
    "conventional": ("gpu_only", "on_demand", "prefetch_all", "guess/next_gate", "guess/next_gate(2)", "oracle"),
    "pregate_1": ("gpu_only", "on_demand", "pregate", "pregate+lru:0.5"),
    "pregate_2": ("gpu_only", "pregate", "pregate(2)"),
}


def main(folder: Path, fit: str) -> None:
    """Run, predict, write."""
    import pregate
    from hwmodels.fits.fit_files import load_fit
    from runtime.microbench.session import LINK_LATENCY_S

    link = pregate.Link(LINK_BYTES_PER_S, LINK_LATENCY_S)
    device = pregate.Device("cpu", h2d=link, d2h=link)
    found: dict[str, Any] = {}
    for name, policies in RUN.items():
        path = folder / "seed-0" / f"{name}.safetensors"
        done = pregate.generate(path, [PROMPT], policies, new_tokens=48, device=device, hw=fit, repeats=9)
        found[name] = done.to_dict()
        for one in done.designs:
            print(name, one.policy, f"{1e3 * one.tpot_s:.2f} ms, error {one.error:+.1%}, {one.n_disturbed} disturbed")
    measured = load_fit(fit).provenance
    about = {
        "command": "python docs/offloaded_models.py", "date": datetime.date.today().isoformat(),
        "link_bytes_per_s": LINK_BYTES_PER_S, "load": os.getloadavg()[0],
        "fit": dict(measured), "models": found,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


def table() -> str:
    """Measured beside predicted, by model and design."""
    lines = [
        "| model | design | a token, ms | predicted | error, % | idle: ids unread, % | predicted | "
        "idle: experts, % | predicted | guesses right, % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in json.loads(RESULTS.read_text())["models"].items():
        for one in found["designs"]:
            waits = ("ids_wait_share", "stall_share")
            shares = [one[f"{prefix}{wait}"] for wait in waits for prefix in ("", "predicted_")]
            recall = "" if one["recall"] is None else f"{100 * one['recall']:.0f}"
            cells = [f"{1e3 * one['tpot_s']:.2f}", f"{1e3 * one['predicted_tpot_s']:.2f}", f"{100 * one['error']:+.0f}"]
            cells += [f"{100 * share:.0f}" for share in shares]
            lines.append(f"| {name} | {one['policy']} | {' | '.join([*cells, recall])} |")
    return "\n".join(lines)


def conditions() -> str:
    """When that was, and how undisturbed."""
    found = json.loads(RESULTS.read_text())
    designs = [one for model in found["models"].values() for one in model["designs"]]
    errors = sorted(abs(one["error"]) for one in designs)
    busy = sum(one["n_disturbed"] for one in designs)
    runs = 9 * len(designs)
    return (
        f"Run on {found['date']} over a link of {found['link_bytes_per_s'] / 1e6:.0f} MB/s; {busy} of {runs} runs were "
        f"beside other work of the machine (a load of {found['load']:.0f} on two cores). Median error of the time a "
        f"token {100 * errors[len(errors) // 2]:.0f} %, "
        f"largest {100 * errors[-1]:.0f} %."
    )


if __name__ == "__main__":
    from script_arguments import given

    trained, fit_of_this = given(__doc__, "FOLDER", "FIT")
    main(Path(trained), fit_of_this)
