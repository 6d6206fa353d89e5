"""What a command does not need it does not import: its time is that of its imports, and a test cannot ask the clock."""

import os
import subprocess
import sys

import pytest

SLOW = {"h5py", "llvmlite", "matplotlib", "numba", "pydantic", "scipy", "simpy", "torch", "xarray"}
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


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("models",),
        ("models", "show", "mixtral-8x7b"),
        ("hardware", "--format", "csv"),
        ("hardware", "show", "t4", "--format", "yaml"),
    ],
)
def test_listings_import_no_arrays(words: tuple[str, ...]) -> None:
    status, packages = imported(*words)
    assert status == 0
    assert not packages & (SLOW | ARRAYS)


@pytest.mark.parametrize("words", [("trace", "list"), ("trace", "stats", "gpt-oss-20b-mmlu")])
def test_what_is_known_of_traces_needs_arrays_only(words: tuple[str, ...]) -> None:
    status, packages = imported(*words)
    assert status == 0
    assert not packages & SLOW


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "nosuch", "--hardware", "t4"),
        ("compare", "switch-base-8", "--hardware", "nosuch"),
        ("compare", "switch-base-8", "--hardware", "t4", "--policies", "nosuch"),
        ("compare", "switch-base-8", "--hardware", "t4", "--batch", "x"),
        ("simulate", "switch-base-8", "--hardware", "t4", "--format", "xml"),
        ("simulate", "switch-base-8", "--hardware", "t4", "--gantt", "a.gif"),
        ("explain", "nosuch", "--hardware", "t4"),
        ("crossover", "nosuch", "--hardware", "t4", "--axis", "batch", "--from", "1", "--to", "2"),
        ("optimize", "nosuch"),
        ("optimize",),
    ],
)
def test_what_can_be_told_from_a_word_is_told_before_arrays_are_imported(words: tuple[str, ...]) -> None:
    status, packages = imported(*words)
    assert status == 2
    assert not packages & (SLOW | ARRAYS | {"rich"})


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "switch-base-8", "--hardware", "t4", "--output-tokens", "-4"),
        ("residency", "nosuch.safetensors"),
        ("trace", "stats", "nosuch.safetensors"),
        ("sweep", "nosuch.yaml", "-o", "x.nc"),
        ("reproduce", "nosuch"),
        ("run", "switch-mini-16", "--policy", "nosuch"),
        ("measure", "-o", "nosuch/x.json"),
        ("validate", "--suite", "nosuch"),
        ("train", "-o", "nosuch", "--layout", "nosuch"),
        ("train", "-o", "nosuch", "--seeds", "1"),
        ("train", "-o", "nosuch", "--arm-steps", "0"),
        ("train", "-o", "nosuch", "--text", "nosuch"),
    ],
)
def test_a_refusal_imports_nothing_slow(words: tuple[str, ...]) -> None:
    status, packages = imported(*words)
    assert status == 2
    assert not packages & SLOW


def test_a_small_prediction_compiles_nothing() -> None:
    words = ("compare", "switch-base-8", "--hardware", "a100-sxm4-80gb", "--output-tokens", "4")
    status, packages = imported(*words)
    assert status == 0
    assert not packages & (SLOW - {"scipy"})
