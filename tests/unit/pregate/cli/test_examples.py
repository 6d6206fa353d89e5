"""What documents and help texts tell a reader to run: it is there, and it runs."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import pregate
from pregate.cli.commands import plan
from pregate.cli.option_values import build_model
from pregate.validation.ledger import Predicted, append_predictions
from runtime.pregated.corpus.tokens import Tokenizer
from runtime.pregated.model_file import save_model
from tests import small_fits
from tests.command_line import Run
from tests.grids import some_of
from tests.pregated_models import seeded_model
from traces.storage import save_trace

ROOT = Path(__file__).parents[4]

ELSEWHERE = ("pregate measure", "pregate validate", "pregate record")
"""Two time the machine, one needs a model: tests/validation and tests/hf do what they do."""


RUN = (
    "README.md", "docs/tutorial.md", "docs/questions.md", "docs/validation.md", "docs/plan.md", "docs/cost.md",
    "docs/formats.md", "docs/misses.md",
)  # fmt: skip
"""Documents of which every command is run; those of the others are held to what commands take."""

CONSOLE = re.compile(r"^\$ (pregate(?: [^ #].*?)?)(?:\s+#.*)?$", re.MULTILINE)


def examples() -> list[str]:
    """Every command that those documents or a --help text tell a reader to run."""
    console = [words for name in RUN for words in CONSOLE.findall((ROOT / name).read_text())]
    helps = [example_of(command) for name, command in commands().items() if name not in GROUPS]
    assert len(console) >= 40
    assert len(helps) >= 25
    return [words for words in dict.fromkeys(console + helps) if words and not words.startswith(ELSEWHERE)]


def kinds_of_plans() -> list[str]:
    """Of plans with the same options, of one machine or of several, the first; all other examples."""
    kept: dict[object, str] = {}
    for words in examples():
        options = [word for word in words.split() if word.startswith("--")]
        kept.setdefault((*options, "," in words) if words.startswith("pregate plan ") else words, words)
    return list(kept.values())


GROUPS = ("pregate", "pregate trace", "pregate models", "pregate hardware")
"""Names that stand for several commands, and show themselves without a word more."""


@functools.cache
def commands() -> dict[str, Any]:
    """Every command by its full name, as docs/reference-commands.md has them."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.commands()
    return found


def example_of(command: Any) -> str:
    """The example of its help; it may go on over several lines."""
    match = re.search(r"Example: (pregate .+?)(?:\n\n|\Z)", command.help or "", re.DOTALL)
    return " ".join(match[1].split()) if match else ""


@pytest.mark.parametrize("name", [name for name in commands() if name not in GROUPS])
def test_every_command_has_an_example_in_its_help(name: str) -> None:
    assert example_of(commands()[name]).startswith(name)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_commands_of_the_documents_are_ones_that_there_are(path: Path) -> None:
    known = commands()
    for line in CONSOLE.findall(path.read_text().replace("\\\n", " ")):
        words = shlex.split(line)
        name = max((name for name in known if words[: len(name.split())] == name.split()), key=len)
        options = {one for param in known[name].params for one in (*param.opts, *param.secondary_opts)}
        given = {word for word in words[len(name.split()) :] if word.startswith("--")}
        assert given <= options | {"--help"}, line


def write_inputs(folder: Path) -> None:
    """The files that the examples name."""
    model = pregate.load_model("switch-base-8")
    save_trace(pregate.synthesize(model, 8, 48), folder / "trace.safetensors")
    for name in ("at-launch", "today"):
        save_trace(pregate.synthesize(model, 8, 48, batch=8), folder / f"{name}.safetensors")
    lines = ["# route_trace v1", "# model=m arch=a n_layer=2 n_expert=4 n_expert_used=1"]
    lines += [f"# layer={layer} expert_bytes=1048576 dense_bytes=1" for layer in range(2)]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes")
    for step in range(3):
        lines += [f"0,{int(step > 0)},{step},{layer},0,{step},1.0,0,1048576" for layer in range(2)]
    (folder / "qwen.route.csv").write_text("\n".join(lines) + "\n")
    columns = "model,design,batch,forced_active_experts,cache_policy,cache_ratio,expert_tier,metric,value,unit"
    row = "switch-base-8,gpu_only,1,,none,0,dram,moe_layer_latency,0.95,ms"
    told = {"tpot_s": Predicted(0.03, (0.02, 0.04), "claimed")}
    append_predictions(folder / "predictions.jsonl", [({"model": "switch-base-8"}, told)], date="2026-11-28 12:00 UTC")
    (folder / "measured.csv").write_text(f"{columns}\n{row}\n")
    small_fits.measurements().save(folder / "measurements.json")
    (folder / "fit.yaml").write_text(small_fits.fit().to_yaml())
    save_model(seeded_model(0, 1), Tokenizer(()), folder / "pregate_1.safetensors")
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, numbers in FEWER_IN_FILES.items():
        text = (folder / "examples" / name).read_text(encoding="utf-8")
        for number, fewer in numbers.items():
            assert number in text
            text = text.replace(number, fewer)
        (folder / "examples" / name).write_text(text, encoding="utf-8")
    axes = "{link.h2d_bytes_per_s: [16e9, 64e9], batch: [1, 2]}"
    workload = "{input_tokens: 2, output_tokens: 3}"
    (folder / "sweep.yaml").write_text(
        f"model: switch-base-8\nhardware: a100-sxm4-80gb\nworkload: {workload}\npolicies: [pregate]\naxes: {axes}\n"
    )


FEWER = {
    "explore": {"--output-tokens": "2", "--batches": "1,4", "--prompts": "32", "--active": "0,0.25"},
    "plan": {"--input-tokens": "16", "--output-tokens": "4"},
    "cost": {"--input-tokens": "16", "--output-tokens": "4"},
    "optimize": {"--input-tokens": "16"},
    "run": {"--input-tokens": "4"},
    "train": {"--seeds": "2", "--base-steps": "4", "--arm-steps": "2"},
}
"""What is added to examples that do not say it: what they show is the same of fewer tokens and steps."""
AT_MOST = {"--input-tokens": 16, "--output-tokens": 4, "--requests": 8}
"""Options whose number is lowered where an example says a larger one."""
SHORTER = {"predictors": {"gpt-oss-20b-mmlu": "trace.safetensors"}}
"""Recordings that stand in for longer ones, by command."""
FEWER_IN_FILES = {
    "ten-thousand-machines.yaml": {", 100]": ", 6]", "output_tokens: 256": "output_tokens: 8"},
    "poc.yaml": {"input_tokens: 256, output_tokens: 128": "input_tokens: 16, output_tokens: 4"},
}
"""The same of numbers in files that examples name."""


WRITES = ("-o", "--timeline", "--gantt", "--tornado", "--plot")
"""Options after which the path of a file or folder stands that is written."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name; each example is run in a copy of its own."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of schedules and answers, which examples of one model share as a reader's do."""
    return tmp_path_factory.mktemp("kept")


def test_the_models_of_pregate_alone_are_there_in_their_formats() -> None:
    for name, formats in plan.WELL_KNOWN:
        assert build_model(name, None, None, formats).name == name


def lowered(option: str, value: str) -> str:
    """The value of an option, or less of it."""
    return str(min(int(value), AT_MOST[option])) if option in AT_MOST and value.isdigit() else value


@pytest.mark.parametrize("example", some_of(examples(), kinds_of_plans()))
def test_every_example_runs(
    run: Run, example: str, inputs: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(inputs, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pregate.ask.capturing.schedule_cache.DEFAULT_FOLDER", kept)
    words = shlex.split(example)[1:]
    if "residency" in words and "--expert-bytes" not in words:
        words += ["--expert-bytes", "1048576"]
    for command, fewer in FEWER.items():
        if command in words:
            words += [word for option, value in fewer.items() if option not in words for word in (option, value)]
    for command, shorter in SHORTER.items():
        words = [shorter.get(word, word) for word in words] if command in words else words
    words[1:] = [lowered(option, value) for option, value in pairwise(words)]
    if not words:
        monkeypatch.setattr(plan, "WELL_KNOWN", (("mixtral-mini-8", None),))
    status, out, err = run(*words)
    assert status == 0, err
    assert out or err
    assert all(Path(path).exists() for option, path in pairwise(words) if option in WRITES)


def test_python_of_the_documents_runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, in one session a document."""
    monkeypatch.setattr("pregate.ask.capturing.schedule_cache.DEFAULT_FOLDER", kept)
    for name in RUN[:3]:
        blocks = re.findall(r"```python\n(.+?)```", (ROOT / name).read_text(), re.DOTALL)
        space: dict[str, object] = {}
        for code in blocks:
            exec(code, space)
        assert len(blocks) == 1
        assert any(isinstance(value, Figure) for value in space.values())
