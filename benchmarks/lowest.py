"""`python -m benchmarks.lowest`: the lowest release of every direct dependency, as constraints for pip (`make lowest`).

PyTorch stays as pinned: its earlier releases come with CUDA libraries from the index. Needs Python alone.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"

AS_PINNED = frozenset({"torch"})

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?P<bound>>=|==)(?P<lowest>[0-9][0-9a-z.]*)(?P<rest>(,<[0-9.]+)?)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of pyproject.toml: `extra` is "" for what everybody gets, `versions` what follows the name."""

    name: str
    extra: str
    lowest: str
    versions: str


def canonical(name: str) -> str:
    """A name as package indexes compare it: pre_commit is pre-commit (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(project: str | None = None) -> tuple[Requirement, ...]:
    """What `project`, the text of a pyproject.toml (default: ours), depends on.

    Raises `ValueError` for a requirement that states no lowest release.
    """
    table = tomllib.loads(PROJECT.read_text(encoding="utf-8") if project is None else project)["project"]
    lines = {"": table["dependencies"], **table.get("optional-dependencies", {})}
    return tuple(_requirement(line, extra) for extra, of_extra in lines.items() for line in of_extra)


def _requirement(line: str, extra: str) -> Requirement:
    found = _REQUIREMENT.fullmatch(line)
    if found is None:
        raise ValueError(
            f"{line!r} states no lowest release: write NAME>=RELEASE, NAME>=RELEASE,<RELEASE or NAME==RELEASE"
        )
    return Requirement(
        canonical(found["name"]), extra, found["lowest"], found["bound"] + found["lowest"] + found["rest"]
    )


def pins() -> dict[str, str]:
    """The releases that constraints.txt pins, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    return {canonical(name): release for name, _, release in (line.partition("==") for line in lines if line)}


def lowest() -> dict[str, str]:
    """The lowest release of each dependency that pyproject.toml allows."""
    pinned = pins()
    return {
        one.name: pinned[one.name] if one.name in AS_PINNED else one.lowest
        for one in sorted(requirements(), key=lambda one: one.name)
    }


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    print("\n".join(f"{name}=={release}" for name, release in lowest().items()))
