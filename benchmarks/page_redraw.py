"""How long a page of `pregate explore` takes to redraw in Chromium: `python -m benchmarks.page_redraw`.

Needs the extra `browser`. The page is of qwen3-30b-a3b with six designs on two machines, as in docs/explore.md.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

import pregate

N_MOVES = 20


def main() -> None:
    """Print the size of the page, and the median and the longest redraw of moves of its link."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = pregate.explore_page(["qwen3-30b-a3b"], ["rtx-4090", "h100-sxm"], Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_function("window.answers !== undefined")
        taken_ms = []
        page.focus("#link")
        for i in range(N_MOVES):
            page.keyboard.press("ArrowRight" if i % 2 else "ArrowLeft")
            taken_ms.append(page.evaluate("window.redrawMs"))
        browser.close()
        size_mb = path.stat().st_size / 1e6
    print(f"{size_mb:.1f} MB; a redraw takes {median(taken_ms):.0f} ms, at most {max(taken_ms):.0f} ms")


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
