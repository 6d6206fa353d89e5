"""What pyproject.toml says of other packages: bounds that are pinned above, extras that name what the code imports."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from benchmarks.lowest import canonical, lowest, pins, requirements

ROOT = Path(__file__).parents[3]
ROOMS = ("pregate", "simulator", "runtime", "hwmodels", "offload", "traces", "compiled")
OURS = {*ROOMS, "tests", "benchmarks", "docs", *(path.stem for path in (ROOT / "tests").glob("*.py"))}

DEVELOPING = {"dev", "notebooks", "mutation", "browser", "oracles"}
"""Extras of those who work on pregate; the others are what a command may ask for."""

PACKAGE_OF = {
    "dask": "distributed", "packaging": "pytest", "PIL": "matplotlib", "py_mini_racer": "mini-racer",
    "pynvml": "nvidia-ml-py", "yaml": "pyyaml",
}  # fmt: skip
"""What brings a module that is called otherwise than its package."""

NAMED_ONLY = {"aiconfigurator-core"}
"""Folders of tables that are looked up by name."""


def called(function: ast.expr) -> str:
    """The last name of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def imported(path: Path) -> Iterator[str]:
    """Packages, neither ours nor Python's, of which `path` imports a module anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and called(node.func).endswith(("import_module", "find_spec")):
            names = [one.value for one in node.args[:1] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS:
                yield canonical(PACKAGE_OF.get(top, top))


@functools.cache
def packages(*folders: str) -> set[str]:
    return {name for folder in folders for path in (ROOT / folder).rglob("*.py") for name in imported(path)}


def declared(extras: set[str]) -> set[str]:
    return {one.name for one in requirements() if one.extra in extras}


EXTRAS = {one.extra for one in requirements()}
ASKED_FOR = EXTRAS - DEVELOPING


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    pinned = pins()
    for one in requirements():
        assert one.name in pinned, f"constraints.txt pins no {one.name}"
        assert SpecifierSet(one.versions).contains(pinned[one.name]), (
            f"{one.name}{one.versions} is pinned to {pinned[one.name]}"
        )
        assert SpecifierSet(one.versions).contains(one.lowest)


def test_a_package_has_one_bound_in_all_extras() -> None:
    bounds = {(one.name, one.versions) for one in requirements()}
    assert len(bounds) == len({name for name, _ in bounds})


def test_a_requirement_without_a_lowest_release_is_refused() -> None:
    for line in ("numpy", "numpy<3", "numpy>2", "numpy~=2.1"):
        with pytest.raises(ValueError, match="states no lowest release"):
            requirements(f'[project]\ndependencies = ["{line}"]\n')
    (one,) = requirements('[project]\ndependencies = ["Types_X>=2.1,<3"]\n')
    assert (one.name, one.lowest, one.versions) == ("types-x", "2.1", ">=2.1,<3")


def test_lowest_releases_are_the_bounds_but_for_builds_with_cuda() -> None:
    found = lowest()
    assert found["torch"] == pins()["torch"]
    assert {name: release for name, release in found.items() if name != "torch"} == {
        one.name: one.lowest for one in requirements() if one.name != "torch"
    }


def test_what_the_packages_import_is_declared_for_those_who_use_them() -> None:
    assert packages(*ROOMS) - declared(ASKED_FOR) <= {"pandas"}, "xarray brings pandas"
    assert packages("tests") <= declared(EXTRAS)


def test_what_everybody_installs_is_imported() -> None:
    assert declared(ASKED_FOR) - packages(*ROOMS) == NAMED_ONLY


def test_extras_that_errors_and_documents_name_exist() -> None:
    named = {}
    for path in [
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        *(p for room in ROOMS for p in (ROOT / room).rglob("*.py")),
    ]:
        for extras in re.findall(r"pregate\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            named |= dict.fromkeys(extras.split(","), path.name)
    assert {"runtime", "hf", "notebooks", "cluster"} <= set(named)
    assert {extra: where for extra, where in named.items() if extra not in EXTRAS} == {}
