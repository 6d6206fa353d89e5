"""A card on one screen of 24 lines and 80 columns, what has no room there, and commands that can be copied from it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import pregate
from pregate.card import this_machine
from pregate.card.card import Card
from pregate.card.choice import Ranking
from pregate.card.designs import EngineDesign, plan_design
from pregate.card.display.one_screen import COLUMNS, LINES
from pregate.card.display.phrases import bound_by, in_words
from pregate.card.display.text_layout import command_lines
from pregate.card.found_gpu import Gpu
from pregate.card.job import RequestLoad, workpiece
from pregate.card.judged_design import judge
from pregate.card.plan import plan
from pregate.card.this_machine import Found
from pregate.engines.writing import Flags
from tests.command_line import Run

LOAD = RequestLoad(24, 40, 1)
BINDS = "what the host computes binds it (compute busy 42%, link 1%, stalled 3%, the host's processor 78%)"
IN_VIEW = "recorded (the first 128 of 1,024 decode steps timed), experts kept with it in view"


@pytest.fixture(scope="module")
def card() -> Card:
    return plan("mixtral-mini-8", "rtx-3060-12gb", LOAD, overrides={"hbm_bytes": "2GB"})


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_wider_than_asked(card: Card, width: int, details: bool) -> None:
    assert max(map(len, card.text(width, details=details).splitlines())) <= width


def on_one_screen(card: Card) -> str:
    """The card at 80 columns, held to be one screen of whole sentences."""
    text = card.text(COLUMNS)
    lines = text.splitlines()
    assert len(lines) <= LINES == 24, text
    assert max(map(len, lines)) <= COLUMNS == 80, text
    assert " ..." not in text, text
    return " ".join(text.split())


ASKED = (
    ("gpt-oss-20b", None, "rtx-3060-12gb"), ("qwen3-30b-a3b", "q4_k_m", "strix-halo"),
    ("mixtral-8x7b", "q4_k_m", "apple-m3-ultra"), ("deepseek-v3", None, "a100-sxm4-80gb"),
    ("gpt-oss-120b", None, "h100-sxm"), ("glm-4.5-air", "q4_k_m", "rtx-4090"),
    ("switch-base-128", None, "rtx-3060-12gb"), ("llama-4-scout", "q4_k_m", "strix-halo"),
    ("nllb-moe-54b", None, "apple-m3-ultra"), ("qwen3-235b-a22b", "q4_k_m", "a100-sxm4-80gb"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "formats", "hardware"), ASKED)
def test_a_card_of_any_model_and_machine_is_one_screen(name: str, formats: str | None, hardware: str) -> None:
    """Ten models, each on one of six machines; one request and, of the same card, many at once, which has a number
    more.
    """
    model = pregate.load_model(name, formats={"all": formats} if formats else None)
    found = plan(model, hardware, RequestLoad(8, 4, 1))
    for job in (RequestLoad(8, 4, 1), RequestLoad(2048, 1024, 64)):
        said = on_one_screen(dataclasses.replace(found, job=job))
        for label in ("Expected of 1", "tokens/s", "Limit (claimed", "What binds", "Would change it", "How sure"):
            assert label in said
        assert re.search(r"Measure next, .*% of the doubt\)", said)
        assert "Run 1:" in said


def test_the_longest_card_is_one_screen(card: Card) -> None:
    """Every part as long as the words of engines, machines and claims make it."""
    policy = "gpu_only@experts=cpu:keep=10"
    first, *others = sorted((*card.choice.ranked, *card.choice.beside), key=lambda one: one.request.value)[:5]
    *ranked, now = (
        dataclasses.replace(
            one, design=EngineDesign(f"{policy}{i}", "ktransformers"), prompt_binds=BINDS, token_binds=BINDS
        )
        for i, one in enumerate(others)
    )
    possible = dataclasses.replace(first, design=EngineDesign("bandwidth_split", "streams"))
    choice = Ranking("request", tuple(ranked), (possible,), now, (now,), 1.23, (0.74, 2.05))
    assert choice.abstains
    assert choice.possible is possible
    point = dataclasses.replace(card.turning_points[0], winner=str(now.design))
    full = dataclasses.replace(
        card, model="a-model-of-a-long-name-235b-a22b", parts="rtx-pro-6000-blackwell, epyc-9355-12ch, pcie5-x16",
        job=RequestLoad(2048, 1024, 64), choice=choice, turning_points=(point, point), routing=IN_VIEW,
        flags=Flags("python -m sglang.launch_server " * 9, "COUNTS.pt is written before " * 5),
        narrowing=dataclasses.replace(card.narrowing, command="python -m sglang.bench_serving " * 9),
    )  # fmt: skip
    assert "--details has the flags of ktransformers" in on_one_screen(full)
    shorter = full.text(COLUMNS, n_lines=LINES - 1).splitlines()
    assert len(shorter) == LINES - 1
    assert any(re.match(r"Measure next: \S+, \d+% of the doubt \(--details\)$", line) for line in shorter)


def test_what_has_no_room_on_the_screen_is_in_the_details(card: Card) -> None:
    command, note = "python -m sglang.launch_server --flag 1 " * 40, "COUNTS.pt is what was counted before"
    full = dataclasses.replace(card, flags=Flags(command.strip(), note))
    assert "sglang" not in full.text(COLUMNS)
    details = full.text(COLUMNS, details=True)
    written = details[details.index("Run it: ") + len("Run it: ") : details.index("Note: ")]
    assert shlex.split(written.replace("\\\n", " ")) == shlex.split(command)
    assert note in " ".join(details.split())


@pytest.mark.parametrize("width", [80, 100])
def test_a_command_on_a_card_can_be_copied_line_by_line(width: int) -> None:
    """A shell reads what folds as one command: each line but the last ends with its continuation."""
    command = "llama-server -m MODEL.gguf " + '-ot "blk\\.(46|47)\\.ffn_.*_exps\\.=CPU" ' + "-np 8 -c 6144 " * 9
    lines = command_lines("Run it", command.strip(), width)
    assert len(lines) > 1
    assert max(map(len, lines)) <= width
    read = "\n".join(lines).removeprefix("Run it: ")
    assert shlex.split(read.replace("\\\n", "")) == shlex.split(command)


def test_a_card_says_which_designs_do_not_fit(card: Card) -> None:
    reason = "gpu_only needs 29.4 GB of HBM, there are 25.8 GB: try --hbm 30GB"
    unfit = dataclasses.replace(card, unfit=tuple((f"llama-cpp/{i}", reason) for i in range(5)))
    details = " ".join(unfit.text(COLUMNS, details=True).split())
    assert "Does not fit: llama-cpp/0 (gpu_only needs 29.4 GB of HBM, there are 25.8 GB)" in details
    assert "and 2 more" in details


def test_commands_name_the_file_of_weights_that_was_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "my model.gguf"
    path.write_bytes(b"")
    found = plan(pregate.load_model("mixtral-mini-8"), "rtx-4090", LOAD, weights=path)
    for written in (found.flags.command, found.narrowing.command):
        assert shlex.split(written)[2] == str(path)
    assert "MODEL.gguf" in plan("mixtral-mini-8", "rtx-4090", LOAD, weights=tmp_path / "no.gguf").flags.command


GPU = Gpu("NVIDIA RTX 5880 Ada Generation Laptop", 48 << 30, 960e9, 14080, 4, 16)


@pytest.mark.parametrize(
    ("gpu", "is_described", "told"),
    [
        (None, True, "No accelerator found: a card of rtx-4090 with its usual host, claimed."),
        (GPU, True, "Found NVIDIA RTX 5880 Ada Generation Laptop, 48.0 GiB: its speeds are claimed."),
        (GPU, False, "Found NVIDIA RTX 5880 Ada Generation Laptop, undescribed: taken for rtx-4090."),
    ],
)
def test_a_card_of_this_machine_is_one_screen_with_what_was_found(
    run: Run, monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, is_described: bool, told: str
) -> None:
    found = Found(gpu, "a processor", 16, 64 << 30, "rtx-4090", is_described, "desktop-ddr5", {}, "")
    monkeypatch.setattr(this_machine, "find_machine", lambda: found)
    words = ("plan", "mixtral-mini-8", "--input-tokens", "16", "--output-tokens", "8", "--hbm", "2GB")
    status, out, err = run(*words)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].startswith(told)
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    status, out, _ = run(*words, "--details")
    assert (status, "`pregate measure`, then `pregate calibrate`" in " ".join(out.split())) == (0, True)


def test_what_a_user_gives_stands_in_place_of_what_was_found() -> None:
    found = Found(GPU, "a processor", 16, 64 << 30, "rtx-4090", True, "desktop-ddr5", {}, "")
    given: dict[str, float | str] = {"hbm_bytes": "2GB", "host": "epyc-7543"}
    machine = pregate.load_hardware("rtx-4090", "streams", found.with_given(given)).machine
    assert machine.accelerator.hbm_bytes == 2e9
    assert (machine.host.name, machine.host.dram_bytes == 64 << 30) == ("epyc-7543", False)
    as_found = pregate.load_hardware("rtx-4090", "streams", found.with_given({})).machine
    assert (as_found.accelerator.hbm_bytes, as_found.host.dram_bytes) == (48 << 30, 64 << 30)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("gpu_only", "all in HBM"),
        ("gpu_only@experts=cpu:4", "experts of 4 of 16 layers on the host's processor, all else in HBM"),
        ("gpu_only@experts=cpu", "all experts on the host's processor, all else in HBM"),
        ("gpu_only@experts=cpu:keep=2:uniform", "2 of 8 experts a layer in HBM, the others on the host's processor"),
        ("gpu_only@layers=cpu:3", "3 of 16 layers on the host's processor, the others in HBM"),
        ("gpu_only@layers=cpu", "all layers on the host's processor"),
        ("min_latency/paper", "a missing expert is fetched or computed on the host"),
        ("pregate(2)+lru:0.5", "the gate of block N selects the experts of block N + n"),
    ],
)
def test_a_design_is_said_in_words(policy: str, words: str) -> None:
    model = pregate.load_model("mixtral-mini-8")
    load = RequestLoad(8, 4, 1)
    planned = plan_design(model, pregate.load_hardware("rtx-4090", "llama-cpp"), workpiece(model, load), policy)
    assert in_words(judge(planned, load)).startswith(words)


def test_what_the_best_design_is_stands_under_the_table_where_there_is_room(card: Card) -> None:
    words = in_words(card.best)
    assert f"\n1 is: {words}\n" in card.text()
    assert words in " ".join(card.text(details=True).split())


def test_compute_is_called_kernels_which_read_memory_too() -> None:
    said = "compute binds it (compute busy 96%, link 1%, stalled 0%)"
    assert bound_by(said) == ("kernels", {"kernels": "96%", "link": "1%"})
    assert (
        bound_by("compute and transfers share the time (compute busy 50%)")[0] == "kernels and transfers share the time"
    )
    assert bound_by(BINDS) == (
        "what the host computes", {"kernels": "42%", "link": "1%", "stalled": "3%", "the host's processor": "78%"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hardware", "overrides", "told"),
    [
        ("a100-sxm4-80gb", {"link.h2d_bytes_per_s": 64e9}, "was fitted here with other numbers or formats"),
        ("h100-sxm", None, "was fitted elsewhere"),
        ("a100-sxm4-80gb", None, "; fitted here;"),
    ],
)
def test_a_card_says_where_its_stack_was_fitted(hardware: str, overrides: dict[str, float] | None, told: str) -> None:
    model = pregate.load_model("switch-base-8")
    found = plan(model, hardware, RequestLoad(16, 8), stacks=["fastertransformer"], overrides=overrides)
    assert told in " ".join(found.text().split())
