"""A user's own policy, a file beside the shell, is asked of every command that takes designs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pregate
from offload.policies import cache_named
from tests import small_fits
from tests.command_line import Run
from tests.small_models import MODELS
from traces.errors import InvalidInput

MINE = "./mine.py:mine"
CODE = '''\
"""The experts of the step before, again."""
from offload.policy import Policy


def again(view):
    return {view.block: sorted(view.previous)} if getattr(view, "previous", None) else {}


def mine() -> Policy:
    return Policy("mine")
'''
MODEL, SMALL = ("switch-mini-16", "--hardware", "rtx-4090"), ("--input-tokens", "4", "--output-tokens", "2")
COMMANDS: dict[str, tuple[str, ...]] = {
    "compare": (*MODEL, *SMALL, "--policies", f"{MINE},on_demand"),
    "simulate": (*MODEL, *SMALL, "--policy", MINE),
    "run": ("switch-mini-16", "--backend", "cpu", *SMALL, "--policy", MINE),
    "explain": (*MODEL, *SMALL, "--policy", MINE),
    "crossover": (*MODEL, *SMALL, "--axis", "link.h2d_bytes_per_s", "--from", "1GB/s", "--to", "64GB/s",
                  "--points", "3", "--policies", f"{MINE},on_demand+lru:2"),
    "explore": (*MODEL, "--policies", f"{MINE},gpu_only", "--batches", "1", "--prompts", "4", "--active", "0",
                "--hbm-factors", "1", "-o", "page.html"),
    "sweep": ("sweep.yaml", "-o", "sweep.nc", "--no-cache", "--policies", MINE),
    "optimize": ("switch-mini-16", "--hardware", "rtx-4090", "--policies", MINE, "--axis", "batch=1,2",
                 "--maximize", "tokens_per_s"),
    "tune": (*MODEL, "--trace", "trace.safetensors", "--policies", MINE, "--budget-s", "5"),
    "cost": (*MODEL, *SMALL, "--rate", "1", "--policies", f"{MINE},gpu_only"),
    "poc": ("poc.yaml", "-o", "poc.html", "--policies", MINE),
    "plan": (*MODEL, *SMALL, "--policies", MINE, "--format", "json"),
    "monitor": ("trace.safetensors", "--reference", "trace.safetensors", "--model", "switch-mini-16",
                "--hardware", "rtx-4090", "--policy", MINE, "--format", "json"),
}  # fmt: skip
SWEEP = "model: switch-mini-16\nhardware: rtx-4090\npolicies: [on_demand]\naxes: {batch: [1, 2]}\n"
SWEEP += "workload: {input_tokens: 4, output_tokens: 2}\n"
POC = "title: t\nmodel: switch-mini-16\nhardware: rtx-4090\nworkload: {input_tokens: 4, output_tokens: 4, "
POC += "requests_per_s: 0.05}\npromise: {ttft: 5s, tpot: 100ms}\nnow: on_demand\n"
POC += "candidates: [gpu_only]\nbasis: own\nbatches: [1]\nassume: {electricity_usd_per_kwh: 0.31}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_asked_of_every_command(name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, text in (("mine.py", CODE), ("sweep.yaml", SWEEP), ("poc.yaml", POC)):
        Path(file).write_text(text)
    if "trace.safetensors" in COMMANDS[name]:
        model = pregate.load_model("switch-mini-16")
        pregate.save_trace(pregate.synthesize(model, 8, 8, 8), Path("trace.safetensors"))
    status, out, error = run(name, *COMMANDS[name])
    assert status == 0, error
    written = "".join(path.read_text() for path in tmp_path.glob("*.html"))
    assert ("mine" if name != "monitor" else "hit_rate") in out + error + written


def test_a_model_runs_and_generates_by_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate` predicts it and runs it for real, `generate` has the gates of a trained model decide under it."""
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from pregate.validation.runs import case_runner
    from runtime.pregated.corpus.tokens import Tokenizer
    from runtime.pregated.model_file import save_model
    from tests.pregated_models import seeded_model
    from tests.told_watch import Watch

    monkeypatch.setattr(case_runner, "LoadWatch", Watch)  # a quiet machine, whatever else runs here
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CODE)
    Path("fit.yaml").write_text(small_fits.fit().to_yaml())
    Path("model.yaml").write_text(MODELS["decoder-only"].to_yaml())
    save_model(seeded_model(0, 1), Tokenizer(()), Path("trained.safetensors"))
    words = ("--backend", "cpu", "--repeats", "1", "--policies", f"{MINE},on_demand", "--format", "json")
    status, out, error = run("generate", "trained.safetensors", "--output-tokens", "3", "--prompt", "one", *words)
    assert status == 0, error
    assert [one["policy"] for one in json.loads(out)["designs"]] == [MINE, "on_demand"]
    validated = ("--model", "model.yaml", "--fit", "fit.yaml", "--link", "20MB/s", *SMALL)
    status, out, error = run("validate", *validated, *words)
    assert status == 0, error
    assert "mine.py" in out


@pytest.mark.parametrize(("file", "key"), [("poc.yaml", "now"), ("poc.yaml", "candidates"), ("sweep.yaml", "policies")])
def test_a_file_that_is_read_runs_no_code(
    file: str, key: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text('open("ran", "w")\n' + CODE)
    text = {"poc.yaml": POC, "sweep.yaml": SWEEP}[file]
    if key == "now":
        text = text.replace("now: on_demand", f"now: {MINE}")
    else:
        text = text.replace("[on_demand]", f"['{MINE}']").replace("[gpu_only]", f"['{MINE}']")
    Path(file).write_text(text)
    status, _, error = run(file.removesuffix(".yaml"), file, "-o", "out.nc" if file == "sweep.yaml" else "out.html")
    assert (status, error.count("\n")) == (2, 1)
    assert "a YAML file runs no code, give it by --policies" in error
    assert not Path("ran").exists()


def test_a_policy_is_no_cache() -> None:
    with pytest.raises(InvalidInput, match="is a policy of your own, which may have a cache: name an eviction"):
        cache_named("./mine.py:Mine")
