"""A page as one file: the document, the engine and the style, nothing fetched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import compiled
import hwmodels
import offload
import pregate
import simulator
import traces
from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from pregate.ask.capturing.answer_cache import kept_answer
from pregate.ask.capturing.own_policy_checks import is_own
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_policy, schedules_in, source_digest
from pregate.named import load_hardware, load_model
from pregate.page import DESIGNS
from pregate.page.subject import PageSubject
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.model.architecture import ModelArchitecture

_ASSETS = Path(__file__).parent / "assets"

_MOST_BYTES = 64 << 20
"""The largest document that is kept."""


def explore_page(
    models: Sequence[ModelArchitecture | str | Path],
    machines: Sequence[Platform | str],
    path: str | Path,
    designs: Sequence[str | Policy] = DESIGNS,
    *,
    progress: Callable[[str], None] = lambda _: None,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
    **sliders: Any,
) -> Path:
    """Write a page on `models` and `machines`, each itself or its name or file, to `path` (.html); returns the path.

    `sliders`: batches, prompts, actives, hbm_factors, output_tokens, seed, as of `PageSubject`. `cache_dir`: a folder
    where what a page holds is kept, so that it is worked out once (None: the usual one). Raises `InvalidInput` for what
    it refuses, for another ending, and where no design fits anywhere.
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
    kept, key = schedules_in(cache_dir), _key(subject)
    html = page_html(kept_answer(kept, key, lambda: _document(subject, progress), _MOST_BYTES))
    with whole_file(target) as partial:
        partial.write_text(html, encoding="utf-8")
    return target


def _document(subject: PageSubject, progress: Callable[[str], None]) -> dict[str, Any]:
    from pregate.page.answers import document  # takes a third of a second to import

    return document(subject, progress)


def _key(subject: PageSubject) -> str | None:
    """What the document of a page is kept under, the same in every process; None where a design is a user's own."""
    designs = [None if is_own(design) else lasting_policy(design) for design in subject.designs]
    if None in designs:
        return None
    from pregate.routing_traces import default_dials

    models = [(model, default_dials(model)) for model in subject.models]
    machines = [(hw.hardware, hw.machine, hw.stack, hw.overridden, hw.fit) for hw in subject.machines]
    rest = (subject.batches, subject.prompts, subject.actives, subject.hbm_factors, subject.output_tokens, subject.seed)
    code = source_digest([compiled, traces, offload, hwmodels, simulator, pregate])
    return hashlib.sha256(repr(("page", code, models, machines, designs, rest)).encode()).hexdigest()[:32]


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
