"""CPU seconds of the commands of README and docs/questions.md, three ways: `python -m benchmarks.command_line`.

User and system time of the whole process, children included, so that other work on the machine counts little. "first":
no bytecode, no compiled code, no schedules kept from before. "new question": with bytecode and the kernels that
`python -m pregate.kernels` keeps, as after `make test`, but no schedule or answer. "again": with the schedules and
answers that runs before have kept, too. Both of these: the better of two.
Writes `results/command_line.json`. Commands that time the machine itself are left out.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "command_line.json"
KERNELS = Path(".cache") / "pregate" / "kernels"
ANSWERS = Path(".cache") / "pregate" / "schedules"
LEFT_OUT = ("pregate measure", "pregate run", "pregate validate", "pregate calibrate", "pregate compare mixtral-mini-8")

LARGE = (
    "pregate reproduce field --format csv", "pregate reproduce field --format csv --no-cache",
    "pregate plan gpt-oss-120b --concurrency 64 --input-tokens 2048",
)  # fmt: skip
"""Beside them, the most that a command is asked at once: all that others measured, again and from nothing, and many
long requests."""


def commands() -> list[str]:
    """What README and docs/questions.md tell a reader to run, in their order, after `pregate --help`; then `LARGE`."""
    text = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/questions.md"))
    found = re.findall(r"^\$ (pregate(?: .+?)??)(?:\s+#.*)?$", text, re.MULTILINE)
    return ["pregate --help", *(c for c in dict.fromkeys(found) if not c.startswith(LEFT_OUT)), *LARGE]


def cpu_s(command: str, folder: Path, home: Path) -> float:
    """CPU seconds of one run in `folder`, with caches under `home`. Raises `CalledProcessError` when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_python(["pregate", *shlex.split(command)[1:]], folder, home)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def new_question_s(command: str, folder: Path, home: Path) -> float:
    """CPU seconds of a run that finds no schedule and no answer kept under `home`. Raises as `cpu_s` does."""
    shutil.rmtree(home / ANSWERS, ignore_errors=True)
    return cpu_s(command, folder, home)


def run_python(words: list[str], folder: Path, home: Path) -> None:
    """Run a module with its arguments in `folder`, with caches under `home`."""
    caches = {"HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "bytecode"), "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | caches
    subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, check=True, capture_output=True)


def main() -> None:
    """Run every command with fresh caches of its own, then without its answers, then with them."""
    rows = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "work"
        folder.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        kept = Path(root) / "kept"
        kept.mkdir()
        run_python(["pregate.kernels"], folder, kept)
        for i, command in enumerate(commands()):
            home = Path(root) / f"home{i}"
            home.mkdir()
            first = cpu_s(command, folder, home)
            shutil.copytree(kept / KERNELS, home / KERNELS, dirs_exist_ok=True)
            new = min(new_question_s(command, folder, home) for _ in range(2))
            again = min(cpu_s(command, folder, home) for _ in range(2))
            seconds = {"first_s": first, "new_s": new, "again_s": again}
            rows.append({"command": command} | {name: round(value, 2) for name, value in seconds.items()})
            print(f"{first:7.2f} {new:7.2f} {again:7.2f}  {command}", flush=True)
    with Path("/proc/cpuinfo").open() as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    machine = {"processor": names[0] if names else platform.processor(), "n_cores": os.cpu_count()}
    RESULTS.write_text(
        json.dumps({"date": date.today().isoformat(), "machine": machine, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
