"""What must hold of the house as a whole: a public class is defined once, a module has a name that says something."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROOMS = ("pregate", "simulator", "runtime", "hwmodels", "offload", "traces")


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_a_public_class_means_one_thing_in_the_whole_house() -> None:
    homes = defaultdict(list)
    for path in modules():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert len(homes) > 100
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


INNER = {
    "evaluate", "generate", "import_trace", "load_trace", "lru_curve", "recognise", "serve_arrivals",
    "simulate", "train", "walk",
}  # fmt: skip
"""Functions that several modules have by one name, as they do the same: each interpreter's, or what the front door asks
for further in."""


def test_a_public_function_means_one_thing_in_the_whole_house() -> None:
    """Commands and checks of options are named after what is typed, compiled code after what it is the twin of."""
    homes = defaultdict(set)
    for path in modules():
        module = str(path.relative_to(ROOT))
        if module.startswith("pregate/cli/") or path.stem.endswith("kernel"):
            continue
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                homes[node.name].add(module)
    assert len(homes) > 500
    assert {name for name, places in homes.items() if len(places) > 1} == INNER


def test_what_is_public_is_said_by_names_and_once() -> None:
    """Private names begin with an underscore. A list of the others is one more that can be wrong; a module has it for
    names of another that are asked for there.
    """
    listing = set()
    for path in modules():
        lists = defined = frozenset[str]()
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                lists = frozenset(ast.literal_eval(node.value))
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                defined |= {node.name}
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {name for target in targets for name in ast.unparse(target).strip("()").split(", ")}
        if lists:
            listing.add(str(path.relative_to(ROOT)))
            assert lists - defined, f"{path}: every name in __all__ is defined here: leave the list out"
    assert {"pregate/__init__.py", "offload/policy.py"} <= listing


def test_modules_are_named_for_what_a_reader_looks_for() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "util", "common", "helpers", "misc", "base", "manager"}


def test_every_room_is_in_the_tree_of_the_documents_and_unit_tests_lie_in_the_same_rooms() -> None:
    rooms = {path.parent.relative_to(ROOT) for path in modules() if path.name == "__init__.py"}
    assert len(rooms) > 50
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    tree = text[text.index("## The rooms") : text.index("## What keeps it right")]
    assert [str(room) for room in sorted(rooms) if f"{room.name}/" not in tree] == []
    tried = {path.parent.relative_to(ROOT / "tests" / "unit") for path in (ROOT / "tests" / "unit").rglob("*.py")}
    assert {str(room) for room in tried - rooms} == {"compiled", "house"}


def _raised(function: ast.FunctionDef) -> set[str]:
    """Names of what the body of a function raises itself, those of functions in it left out."""
    found, inner = set(), list[ast.AST](function.body)
    while inner:
        node = inner.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            inner += ast.iter_child_nodes(node)
    return found


def test_functions_say_what_they_raise_for_users_mistakes() -> None:
    """By the words of their docstring, or of their class's; constructors by those of what is refused."""
    mistakes = {"InvalidInput", "InvalidFile", "UnknownName", "unknown_name", "CapacityExceeded"}
    n_raising, unsaid = 0, []
    for path in modules():
        if "cli" in path.parts:
            continue
        for node in tree(path).body:
            public = isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
            for one in node.body if isinstance(node, ast.ClassDef) else [node]:
                if not (public and isinstance(one, ast.FunctionDef)) or one.name.startswith("_"):
                    continue
                if _raised(one) & mistakes:
                    n_raising += 1
                    said = (ast.get_docstring(one) or "") + (ast.get_docstring(node) or "")
                    if not any(word in said for word in ("aise", "efuse", "errors")):
                        unsaid.append(f"{path.relative_to(ROOT)}: {one.name}")
    assert n_raising > 200
    assert unsaid == []


def test_every_package_says_what_it_is() -> None:
    for path in modules():
        if path.name == "__init__.py":
            assert ast.get_docstring(tree(path)), path
