"""A page as one file: the document, the engine and the style, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from pregate.named import load_hardware, load_model
from pregate.page import DESIGNS
from pregate.page.answers import document
from pregate.page.subject import PageSubject
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.whole_file import whole_file

__all__ = ["asset", "explore_page", "page_html"]

_ASSETS = Path(__file__).parent / "assets"


def explore_page(
    models: Sequence[ModelArchitecture | str | Path],
    machines: Sequence[Platform | str],
    path: str | Path,
    designs: Sequence[str | Policy] = DESIGNS,
    *,
    progress: Callable[[str], None] = lambda _: None,
    **sliders: Any,
) -> Path:
    """Write a page on `models` and `machines`, each itself or its name or file, to `path` (.html); returns the path.

    `sliders`: batches, prompts, actives, hbm_factors, output_tokens and seed, as of `PageSubject`. Raises
    `InvalidInput` for what it refuses, for another ending, and where no design fits anywhere.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{target.name}: a page ends in .html")
    chosen = tuple(policy_named(design) if isinstance(design, str) else design for design in designs)
    subject = PageSubject(
        tuple(load_model(model) if isinstance(model, str | Path) else model for model in models),
        tuple(load_hardware(machine) if isinstance(machine, str) else machine for machine in machines),
        chosen,
        **sliders,
    )
    html = page_html(document(subject, progress))
    with whole_file(target) as partial:
        partial.write_text(html, encoding="utf-8")
    return target


def page_html(content: dict[str, Any]) -> str:
    """The page that shows a `document`."""
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    html = asset("page.html")
    for mark, text in (
        ("/*STYLE*/", asset("style.css")),
        ("/*ENGINE*/", asset("engine.js")),
        ("/*DRAW*/", asset("draw.js")),
        ("/*PAGE*/", asset("page.js")),
        ("/*DOCUMENT*/", data),
    ):
        html = html.replace(mark, text, 1)
    return html


def asset(name: str) -> str:
    """A file of the page, as text."""
    return (_ASSETS / name).read_text(encoding="utf-8")
