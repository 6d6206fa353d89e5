"""What a question pays before it is answered: which modules are loaded for which job."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pregate.cli.commands import COMMANDS

ROOT = Path(__file__).parents[4]
HEAVY = ("numpy", "scipy", "llvmlite", "simpy", "torch", "matplotlib", "xarray", "pandas", "rich", "yaml",
         "safetensors")  # fmt: skip
FOR_LARGE_JOBS = ("scipy", "llvmlite", "simpy", "torch", "matplotlib", "xarray", "pandas", "h5py")


def loaded(words: list[str]) -> set[str]:
    """The top-level packages that a command has loaded when it ends."""
    code = (
        "import sys\n"
        "from pregate.cli.main import main\n"
        "sys.argv = ['pregate', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["comparr"]])
def test_help_loads_nothing_that_computes(words: list[str]) -> None:
    assert not loaded(words) & set(HEAVY)


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["hardware"],
        ["compare", "--help"],
        ["compare", "nosuch", "--hardware", "t4"],
        ["compare", "switch-base-8", "--hardware", "nosuch"],
        ["simulate", "switch-base-8", "--hardware", "t4", "--policy", "nosuch"],
    ],
)
def test_listings_and_mistakes_load_nothing_that_large_jobs_need(words: list[str]) -> None:
    assert not loaded(words) & set(FOR_LARGE_JOBS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    module, _, attribute = COMMANDS[name].home.partition(":")
    found = getattr(importlib.import_module(f"pregate.cli.commands.{module}"), attribute)
    own = found.info.help if isinstance(found, typer.Typer) else found.__doc__
    assert own.splitlines()[0] == COMMANDS[name].help


def test_the_list_has_a_line_a_command_that_80_columns_do_not_cut() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "pregate.cli.main", "--help"],
        env=os.environ | {"COLUMNS": "80"}, check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    listed = asked.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert not any(line.endswith("...") for line in listed)
