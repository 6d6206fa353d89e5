"""What a command does not need it does not import: its time is that of its imports, and a test cannot ask the clock."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SLOW = {"h5py", "llvmlite", "matplotlib", "pydantic", "scipy", "simpy", "torch", "xarray"}
"""What takes longer to import than a listing may take."""

ARRAYS = {"numpy", "safetensors"}

RUN = """
import sys
from pregate.cli.main import main
try:
    main()
except SystemExit as stop:
    status = stop.code
print("IMPORTED", status, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def imported(*words: str) -> tuple[int, set[str]]:
    """The exit status of `pregate WORDS`, and the packages that it has imported."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True, env=environment
    )
    status, *names = run.stdout[run.stdout.rindex("IMPORTED") :].split()[1:]
    return int(status), set(names)


ONE_BY_ONE = """
import json, sys
from pregate.cli.main import main
found, before = [], set()
for words in json.load(sys.stdin):
    sys.argv = ["pregate", *words]
    try:
        main()
    except SystemExit as stop:
        found.append((words, stop.code or 0, sorted(set(sys.modules) - before)))
    before = set(sys.modules)
print("FOUND", json.dumps(found))
"""


def imported_by_each(lines: Sequence[tuple[str, ...]], folder: Path) -> list[tuple[tuple[str, ...], int, set[str]]]:
    """The exit status of each line in one process in `folder`, and the modules that it is the first to import, those
    that the front door needs with the first.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    run = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        input=json.dumps(lines), capture_output=True, text=True, check=True, env=environment, cwd=folder,
    )  # fmt: skip
    found = json.loads(run.stdout[run.stdout.rindex("FOUND") + 5 :])
    assert len(found) == len(lines)
    assert len(run.stderr.splitlines()) == sum(status != 0 for _, status, _ in found)
    return [(tuple(words), status, set(modules)) for words, status, modules in found]


def packages_of(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


LISTINGS = (
    ("--version",), ("models",), ("models", "show", "mixtral-8x7b"), ("policies",), ("hardware", "--format", "csv"),
    ("hardware", "show", "t4", "--format", "yaml"), ("trace", "list"), ("trace", "--help"),
)  # fmt: skip


def test_listings_import_no_arrays(tmp_path: Path) -> None:
    for words, status, modules in imported_by_each(LISTINGS, tmp_path):
        assert status == 0, words
        assert not packages_of(modules) & (SLOW | ARRAYS), words


@pytest.mark.parametrize("words", [("trace", "stats", "gpt-oss-20b-mmlu")])
def test_what_is_known_of_traces_needs_arrays_only(words: tuple[str, ...]) -> None:
    status, packages = imported(*words)
    assert status == 0
    assert not packages & SLOW


def test_a_trace_is_made_without_masked_arrays() -> None:
    code = "import pregate, sys; pregate.load_trace(sys.argv[1]); print('numpy.ma' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, "gpt-oss-20b-mmlu"], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


TOLD_FROM_A_WORD = (
    ("compare", "nosuch", "--hardware", "t4"), ("compare", "switch-base-8", "--hardware", "nosuch"),
    ("compare", "switch-base-8", "--hardware", "t4", "--policies", "nosuch"),
    ("compare", "switch-base-8", "--hardware", "t4", "--batch", "x"),
    ("simulate", "switch-base-8", "--hardware", "t4", "--format", "xml"),
    ("simulate", "switch-base-8", "--hardware", "t4", "--gantt", "a.gif"),
    ("explain", "nosuch", "--hardware", "t4"),
    ("crossover", "nosuch", "--hardware", "t4", "--axis", "batch", "--from", "1", "--to", "2"),
    ("optimize", "nosuch"), ("optimize",),
)  # fmt: skip


def test_what_can_be_told_from_a_word_is_told_before_arrays_are_imported(tmp_path: Path) -> None:
    for words, status, modules in imported_by_each(TOLD_FROM_A_WORD, tmp_path):
        assert status == 2, words
        assert not packages_of(modules) & (SLOW | ARRAYS | {"rich"}), words


REFUSALS = (
    ("compare", "switch-base-8", "--hardware", "t4", "--output-tokens", "-4"), ("residency", "nosuch.safetensors"),
    ("trace", "stats", "nosuch.safetensors"), ("sweep", "nosuch.yaml", "-o", "x.nc"), ("reproduce", "nosuch"),
    ("run", "switch-mini-16", "--policy", "nosuch"), ("measure", "-o", "nosuch/x.json"),
    ("validate", "--suite", "nosuch"), ("train", "-o", "nosuch", "--layout", "nosuch"),
    ("train", "-o", "nosuch", "--seeds", "1"), ("train", "-o", "nosuch", "--arm-steps", "0"),
    ("train", "-o", "nosuch", "--text", "nosuch"),
)  # fmt: skip


def test_a_refusal_imports_nothing_slow(tmp_path: Path) -> None:
    for words, status, modules in imported_by_each(REFUSALS, tmp_path):
        assert status == 2, words
        assert not packages_of(modules) & SLOW, words


RUN_MINI = ("run", "switch-mini-16")
CPU = ("validate", "--model", "switch-mini-16")
KNOWN = "gpt-oss-20b-mmlu"
S8 = ("switch-base-8", "--hardware", "t4")
CROSS = ("crossover", *S8, "--from", "1", "--to", "2")

A_FILE = str(ROOT / "pyproject.toml")
A_SWEEP = str(ROOT / "examples" / "ten-thousand-machines.yaml")

WRONG_WORDS = [
    (*RUN_MINI, "--backend", "nosuch"), (*RUN_MINI, "--hbm", "nosuch"), (*RUN_MINI, "--link", "-1"),
    (*RUN_MINI, "--link-latency", "nan"), (*RUN_MINI, "--chunk", "nosuch"), (*RUN_MINI, "--tier", "nosuch"),
    (*RUN_MINI, "--batch", "0"), (*RUN_MINI, "--trace", "nosuch"), (*RUN_MINI, "--storage", "nosuch"),
    (*RUN_MINI, "--cache", "nosuch"), (*RUN_MINI, "--popularity", "nosuch"), (*RUN_MINI, "--gantt", "a.gif"),
    (*CPU, "--link", "3parsecs"), (*CPU, "--policies", "nosuch"), (*CPU, "--backend", "nosuch"),
    (*CPU, "--tier", "nosuch"), ("validate", "--suite", "nosuch"), ("validate", "--suite", "quick", "--max-mape", "7"),
    ("measure", "-o", "m.json", "--dtypes", "fp33"), ("measure", "-o", "m.json", "--link", "-2GB/s"),
    ("measure", "-o", "m.json", "--budget-s", "nan"), ("measure", "-o", "m.json", "--storage", "nosuch"),
    ("tune", *S8, "--trace", "nosuch"), ("tune", *S8, "--trace", KNOWN, "--objective", "nosuch"),
    ("tune", *S8, "--trace", KNOWN, "--now", "nosuch"), ("tune", *S8, "--trace", KNOWN, "--policies", "nosuch"),
    ("tune", *S8, "--trace", KNOWN, "--after", "nosuch.yaml"), ("tune", *S8, "--trace", KNOWN, "--budget-s", "nan"),
    ("predictors", "nosuch"), ("predictors", KNOWN, "--predictors", "nosuch"), ("predictors", KNOWN, "--metric", "f1"),
    ("predictors", KNOWN, "--split", "thirds"), ("predictors", KNOWN, "--lookahead", "x"),
    ("predictors", KNOWN, "--plot", "a.gif"),
    ("residency", KNOWN, "--caches", "nosuch"), ("residency", KNOWN, "--capacity", "1.5"),
    ("residency", KNOWN, "--policies", "nosuch"), ("residency", KNOWN, "--budgets-mib", "-1"),
    ("residency", KNOWN, "--train", "2"), ("residency", KNOWN, "--plot", "a.gif"),
    ("monitor", KNOWN, "--reference", "nosuch"), ("monitor", "nosuch", "--reference", KNOWN),
    ("monitor", KNOWN, "--reference", KNOWN, "--alpha", "0"), ("monitor", KNOWN, "--reference", KNOWN, "--held", "0"),
    ("monitor", KNOWN, "--reference", KNOWN, "--stall-rise", "nan"),
    ("train", "-o", "tr", "--layout", "nosuch"), ("train", "-o", "tr", "--seeds", "1"),
    ("train", "-o", "tr", "--text", "nosuch"),
    ("cost", *S8, "--basis", "lease"), ("cost", *S8, "--rate", "0"), ("cost", *S8, "--max-ttft", "soon"),
    ("cost", *S8, "--assumptions", "nosuch"), ("cost", *S8, "--policies", "nosuch"),
    ("compare", *S8, "--tier", "nosuch"), ("compare", *S8, "--engine", "nosuch"), ("compare", *S8, "--modes", "nosuch"),
    ("compare", *S8, "--hbm", "x"), ("compare", *S8, "--output-tokens", "0"), ("simulate", *S8, "--batch", "0"),
    ("explain", *S8, "--metric", "nosuch"), (*CROSS, "--axis", "batch", "--metric", "nosuch"),
    ("plan", "switch-base-8", "--objective", "nosuch"), ("plan", "switch-base-8", "--now", "nosuch/gpu_only"),
    ("plan", "switch-base-8", "--policies", "nosuch"), ("plan", "switch-base-8", "--trace", "nosuch"),
    ("explore", *S8, "-o", "p.html", "--policies", "nosuch"), ("poc", "nosuch.yaml", "-o", "p.html"),
    ("reproduce", "nosuch.csv"), ("reproduce", "isca24", "--refit", "nowhere/f.yaml"),
    ("reproduce", "field", "--spreads", "nowhere/s.yaml"), ("sweep", "nosuch.yaml"),
    ("record", "--model", "nosuch", "--prompts", "nosuch", "-o", "t.safetensors"),
    ("record", "--model", ".", "--prompts", A_FILE, "-o", "t.safetensors"),
    (*RUN_MINI, "--link", "64"), (*RUN_MINI, "--hbm", "1"), ("measure", "-o", "m.json", "--link", "64"),
    (*CPU, "--link", "64"), ("validate", "--suite", "quick", "--fit", "nosuch"),
    ("validate", "--suite", "quick", "--fit", "nosuch.yaml"), ("compare", "switch-base-8", "--hardware", "nosuch.yaml"),
    ("optimize", "switch-base-8", "--minimize", "beauty"), ("optimize", "switch-base-8", "--maximize", "beauty"),
    ("optimize", "switch-base-8", "--subject-to", "beauty>=1"),
    ("compare", "switch-base-8", "--hardware", "nosuch"), ("compare", *S8, "--stack", "nosuch"),
    ("plan", *S8, "--set", "nosuch=1"), ("plan", *S8, "--set", "link=nosuch"),
    ("plan", *S8, "--set", "link.h2d_bytes_per_s=64"),
    ("plan", *S8, "--host", "nosuch"), ("plan", *S8, "--link", "nosuch"), ("plan", *S8, "--stack", "vllm,vllm"),
    ("explore", "switch-base-8", "--hardware", "t4,nosuch", "-o", "p.html"), ("generate", "nosuch.safetensors"),
    ("generate", A_FILE, "--link", "64"), ("generate", A_FILE, "--fit", "nosuch"),
    ("generate", A_FILE, "--prompts", "nosuch"),
    ("generate", A_FILE, "--policies", "pregate,pregate"), ("generate", A_FILE),
    ("sweep", A_SWEEP, "--checkpoint", A_FILE), ("sweep", A_SWEEP, "--cache-dir", f"{A_FILE}/below"),
    ("sweep", A_SWEEP, "--plot", f"{A_FILE}/below"), ("sweep", A_SWEEP, "--plot", A_FILE),
    ("sweep", A_SWEEP, "--dask", "nosuch"), ("residency", A_FILE), ("residency", A_FILE, "--policies", "lru"),
]  # fmt: skip
"""A wrong word each, of what a model, a machine and a trace have no say in."""


def test_a_wrong_word_is_told_before_a_trace_or_the_runtime_is_loaded(tmp_path: Path) -> None:
    """What a word loads, the first that loads it answers for."""
    for words, status, modules in imported_by_each(WRONG_WORDS, tmp_path):
        assert status == 2, words
        assert not packages_of(modules) & (SLOW - {"h5py"}), words
        assert not {"pregate.ask.simulation", "pregate.ask.capturing.capture", "runtime.memory"} & modules, words
        assert words[0] == "record" or "traces.storage" not in modules, words
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_written_and_drawn_without_xarray(tmp_path: Path) -> None:
    some = tmp_path / "some.yaml"
    some.write_text(
        "{model: switch-base-8, hardware: t4, workload: {output_tokens: 2}, policies: [gpu_only], "
        "axes: {link.h2d_bytes_per_s: [1e9, 8e9], stack.sync_s: [1e-6, 2e-6]}}"
    )
    status, packages = imported(
        "sweep", str(some), "-o", str(tmp_path / "some.nc"), "--plot", str(tmp_path / "drawn"), "--no-cache"
    )
    assert status == 0
    assert (tmp_path / "drawn" / "tokens.png").exists()
    assert not packages & {"xarray", "pandas", "dask", "distributed", "scipy"}


def test_a_small_prediction_compiles_nothing() -> None:
    words = ("compare", "switch-base-8", "--hardware", "a100-sxm4-80gb", "--output-tokens", "4")
    status, packages = imported(*words)
    assert status == 0
    assert not packages & (SLOW - {"scipy"})
