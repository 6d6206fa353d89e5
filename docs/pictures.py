"""Draw pictures of the documents into docs/pictures: `python docs/pictures.py`. Others: docs/rules_of_thumb.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import pregate
from pregate import draw

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """All of them, as published or claimed."""
    timelines(PICTURES / "timelines.png")
    winner_map(PICTURES / "winner-map.png")
    draw.save_figure(draw.published_against_predicted(pregate.reproduce("isca24")), PICTURES / "published.png")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("explore.png left as it is: Chromium is not installed")
    else:
        page(PICTURES / "explore.png", chromium)


def page(target: Path, chromium: str) -> None:
    """The page of qwen3-30b-a3b on an RTX 4090 and an H100, as it opens (the extra 'browser')."""
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        written = Path(folder) / "page.html"
        pregate.explore_page(["qwen3-30b-a3b"], ["rtx-4090", "h100-sxm"], written)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1180, "height": 1400})
        shown.goto(written.as_uri())
        shown.wait_for_function("window.answers !== undefined")
        shown.screenshot(path=target)
        browser.close()


def timelines(target: Path) -> None:
    """One decode step of on-demand above pre-gated inference: switch-base-64 on an A100."""
    model, hw = pregate.load_model("switch-base-64"), pregate.load_hardware("a100-sxm4-80gb")
    trace = pregate.synthesize(model, input_tokens=32, output_tokens=8, batch=1, seed=0)
    draw.save_figure(draw.gantt(pregate.compare(model, hw, trace, ["on_demand", "pregate"])), target)


def winner_map(target: Path) -> None:
    """Who wins over link and HBM, at three batches: switch-base-128 on an A100 that is varied."""
    grid = pregate.sweep(
        "switch-base-128",
        "a100-sxm4-80gb",
        pregate.TraceRecipe(input_tokens=1, output_tokens=24),
        policies=["gpu_only", "on_demand", "pregate", "lru"],
        axes={
            "link.h2d_bytes_per_s": np.geomspace(2e9, 512e9, 49),
            "hbm_bytes": np.linspace(3e9, 39e9, 37),
            "batch": [1, 4, 16],
        },
    )
    draw.save_figure(draw.sweep_map(grid, "tpot_s"), target)


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
