"""`pregate poc`: a plan for a proof of concept, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pregate.cli import options
from pregate.cli.option_values import listed
from pregate.cli.output_paths import require_folder, say_written
from pregate.cli.progress import spinner
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file


def poc(
    file: Annotated[Path, typer.Argument(help="YAML: model, hardware, workload, promise, now, candidates, assume.")],
    output: options.Page,
    policies: Annotated[
        str | None, typer.Option(help="Candidates besides those of the file, by comma: ./mine.py:MyPolicy.")
    ] = None,
) -> None:
    """Plan a proof of concept: candidates and costs, what to measure first, what to accept, when to go back.

    Example: pregate poc examples/poc.yaml -o poc.html
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{output}: a page ends in .html")
    require_folder(output)
    from pregate.economics.poc import plan_poc
    from pregate.economics.poc_page import poc_page

    with spinner("planning") as update:
        html = poc_page(plan_poc(file, update, policies=listed(policies) if policies else ()))
    with whole_file(output) as partial:
        partial.write_text(html, encoding="utf-8")
    say_written(output)
