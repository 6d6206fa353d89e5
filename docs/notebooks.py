"""Execute the notebooks in place, outputs kept: `python docs/notebooks.py [NAME ...]`; says what each took.

Seconds are of processor time, of the kernel and all that it started. Run it on a machine with nothing else to do:
the validation in one of them says so where there is.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def execute(path: Path) -> float:
    """Run one and write it; CPU seconds."""
    before = _children_s()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    path.write_text(json.dumps(_plain(notebook), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _plain(notebook: Any) -> dict[str, Any]:
    """As JSON, without what differs from one machine to another and says nothing."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    document: dict[str, Any] = json.loads(nbformat.writes(notebook))
    for cell in document["cells"]:
        cell["metadata"] = {}
    return document


def main(arguments: list[str]) -> None:
    """All, or those named. Exits with 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="docs/notebooks.py", description="Execute notebooks in place.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the name of a file without .ipynb; default: all")
    names = parser.parse_args(arguments).names
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    unknown = [name for name in names if name not in paths]
    if unknown:
        print(f"no notebook {unknown[0]!r}: {', '.join(paths)}", file=sys.stderr)
        raise SystemExit(2)
    for name, path in paths.items():
        if not names or name in names:
            print(f"{path.name}: {execute(path):.0f} CPU s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
