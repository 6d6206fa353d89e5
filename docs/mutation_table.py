"""What mutation testing found, from results/mutation.json: a line for docs/extend.md, tables for docs/mutants.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.mutation_targets import TARGETS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mutation.json"


def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return rows


def _counts(row: dict[str, Any]) -> tuple[int, int, int, int]:
    """Mutants tried, killed, equivalent, surviving."""
    return row["tried"], row["killed"], sum(row["equivalent"].values()), len(row["survivors"])


def line() -> str:
    """All modules in one sentence."""
    rows = _rows()
    tried, killed, same, left = (sum(column) for column in zip(*map(_counts, rows.values()), strict=True))
    made = sum(row["mutants"] for row in rows.values())
    return (
        f"Of {made:,} mutants of {len(rows)} central modules, one wrong expression each, the last run tried {tried:,} "
        f"on the tests of their module,\nwhich notice {killed:,}; {same} are equivalent and {left} survive "
        "([mutants.md](mutants.md))."
    )


def rooms() -> str:
    """A row a room, with the names of its modules; the modules that were tried in part, and those that have no row."""
    lines = [
        "| room | modules | mutants | tried | noticed | equivalent | survive |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for module, row in sorted(_rows().items()):
        found.setdefault(Path(module).parent.as_posix(), []).append((Path(module).stem, row))
    for room, mine in found.items():
        made = sum(row["mutants"] for _, row in mine)
        counts = (f"{sum(column):,}" for column in zip(*(_counts(row) for _, row in mine), strict=True))
        lines.append(f"| `{room}` | {', '.join(name for name, _ in mine)} | {made:,} | {' | '.join(counts)} |")
    part = [
        f"`{at}` {row['tried']} of {row['mutants']}" for at, row in _rows().items() if row["tried"] < row["mutants"]
    ]
    without = [f"`{module}`" for module in TARGETS if module not in _rows()]
    left = {"Tried in part": part, "Not tried yet": without}
    said = (f"{what}: {', '.join(modules) or 'none of the modules that are to be'}." for what, modules in left.items())
    return "\n".join([*lines, "", " ".join(said)])


def survivors() -> str:
    """What no test notices."""
    lines = [
        f"- `{module}`, {mutant['function']}: `{mutant['was']}` becomes `{mutant['becomes']}`"
        for module, row in _rows().items()
        for mutant in row["survivors"]
    ]
    return "\n".join(lines) or "None."
