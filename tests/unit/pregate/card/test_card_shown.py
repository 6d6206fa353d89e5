"""A card as text, Markdown and HTML, its flags, the machine that is found, and the two commands."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import pregate
from pregate.card.card import Card
from pregate.card.designs import EngineDesign, runs_on
from pregate.card.found_gpu import Gpu, nearest_accelerator
from pregate.card.job import RequestLoad
from pregate.card.phrases import rate
from pregate.card.plan import plan
from pregate.card.this_machine import find_machine, nearest_host
from pregate.cli.commands import plan as command
from pregate.engines.writing import Flags, benchmark_of, flags_of
from tests.command_line import Run, runner

ROOT = Path(__file__).parents[4]
LOAD = RequestLoad(24, 40, 1)
HOSTILE = "<script>alert(1)</script>|`x`"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def card() -> Card:
    return plan("mixtral-mini-8", pregate.load_hardware("rtx-4090", "streams", {"hbm_bytes": "2GB"}), LOAD)


def test_each_line_of_a_summary_with_figures_says_what_they_rest_on() -> None:
    card = plan("mixtral-mini-8", "rtx-4090", LOAD)
    assert card.turning_points
    text = " ".join(card.summary(100).split())
    assert f"{card.reached:.0%} of the claimed speed limit" in text
    assert "Would change it (claimed):" in text
    assert re.search(r"holds 1 \(claimed\)|, claimed\)|best of \d+ that fit", card.verdict())


@pytest.mark.parametrize(
    ("number", "told"), [(3547.0, "3,550"), (999.6, "1,000"), (12.34, "12.3"), (1.09e5, "109,000")]
)
def test_rates_are_never_powers_of_ten(number: float, told: str) -> None:
    assert rate(number) == told


def test_a_narrow_card_names_the_columns_that_it_left_out(card: Card) -> None:
    narrow = card.text(40, details=True)
    assert max(map(len, narrow.splitlines())) <= 40
    assert "Left out, 40 columns are too few:" in " ".join(narrow.split())
    assert "Left out" not in card.text(120, details=True)


def test_the_card_says_all_that_it_is_asked_for(card: Card) -> None:
    said = card.text(120, details=True)
    for label in ("Speed limit", "What binds", "Would change it", "How sure", "Measure next", "(* now"):
        assert label in said
    for words in ("first token", "95 % interval", "claimed"):
        assert words in said
    assert card.verdict() in " ".join(said.split())
    for one in card.choice.ranked[:3]:
        assert str(one.design) in said
    assert card.verdict() in " ".join(card.summary(90).split())


def test_html_and_markdown_escape_what_is_written(card: Card) -> None:
    hostile = dataclasses.replace(card, model=HOSTILE, flags=Flags(HOSTILE, ""))
    shown = hostile._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    outside_code = re.sub(r"`[^`]*`", "", hostile.markdown())
    assert re.search(r"(?<!\\)<script", outside_code) is None
    assert shown.count("<table>") == shown.count("</table>") == 2


def test_the_document_is_json(card: Card) -> None:
    document = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    assert document["best"]["request_s"]["ci95"][0] < document["best"]["request_s"]["value"]
    assert document["job"] == {"input_tokens": 24, "output_tokens": 40, "batch": 1}
    assert len(document["designs"]) == len(card.choice.ranked)
    assert len(card.rows()) == len(card.choice.ranked) + len(card.choice.beside)


@pytest.mark.parametrize(
    ("stack", "design", "flags"),
    [
        ("llama-cpp", "gpu_only", "-ngl 999"),
        ("llama-cpp", "gpu_only@experts=cpu", "-ngl 999 --cpu-moe"),
        ("llama-cpp", "gpu_only@experts=cpu:26", "-ngl 999 --n-cpu-moe 26"),
        ("llama-cpp", "gpu_only@experts=cpu:46-", '-ot "blk\\.(46|47)\\.ffn_.*_exps\\.=CPU"'),
        ("llama-cpp", "gpu_only@layers=cpu:20", "-ngl 29 "),
        ("llama-cpp", "gpu_only@layers=cpu", "-ngl 0 "),
        ("llama-cpp", "gpu_only@kv=cpu", "--no-kv-offload"),
        ("llama-cpp", "gpu_only@experts=cpu@ubatch=2048@stream=never", "-ub 2048 --no-op-offload"),
        ("llama-cpp", "gpu_only@experts=cpu:26", "-fit off"),
        ("llama-cpp", "on_demand+lru:0.1", "--cpu-moe --moe-cache-mib 5526 "),
        ("ik-llama", "gpu_only@experts=cpu@ubatch=2048@stream=never", "-ub 2048 -op -1,0 -np"),
        ("ik-llama", "gpu_only@layers=cpu:20", "-ngl 28 "),
        ("ik-llama", "gpu_only@layers=cpu", "-ngl 0 "),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "--kt-num-gpu-experts 28"),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "frequency --init-expert-location COUNTS.pt"),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "--kt-cpuinfer 16"),
    ],
)
def test_a_design_is_said_in_the_flags_of_its_engine(stack: str, design: str, flags: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", stack)
    assert flags in flags_of(EngineDesign(design, stack), model, hw, LOAD).command + " "


@pytest.mark.parametrize(
    ("stack", "design", "words"),
    [
        ("llama-cpp", "on_demand+lru", "what HBM is left"),
        ("llama-cpp", "on_demand+lfu", "only into an LRU"),
        ("llama-cpp", "pregate+lru", "only into an LRU"),
        ("ik-llama", "gpu_only@layers=cpu:20", "the output layer stays on the host"),
        ("ik-llama", "on_demand+lru", "moves no experts"),
        ("streams", "on_demand+lru", "--moe-cache-mib"),
        ("llama-cpp", "gpu_only@experts=cpu:keep=28", "28 of them cannot stay"),
        ("llama-cpp", "gpu_only@weights=stream", "cannot be said"),
        ("ktransformers", "pregate", "cannot be said"),
        ("ktransformers", "gpu_only@experts=cpu:10", "all layers"),
        ("streams", "on_demand+lru", "no engine serves"),
        ("streams", "pregate+lru", "trained to choose ahead"),
    ],
)
def test_what_an_engine_cannot_be_told_is_said(stack: str, design: str, words: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", stack)
    assert words in flags_of(EngineDesign(design, stack), model, hw, LOAD).left_out


SAID = {
    "llama-cpp": [
        "gpu_only", "gpu_only@experts=cpu", "gpu_only@experts=cpu:26", "gpu_only@experts=cpu:46-", "on_demand+lru:0.1",
        "gpu_only@layers=cpu:20@kv=cpu", "gpu_only@experts=cpu@ubatch=2048@stream=never",
    ],
    "ik-llama": ["gpu_only@experts=cpu@ubatch=2048@stream=never", "gpu_only@layers=cpu:20", "gpu_only@kv=cpu"],
    "ktransformers": [
        "gpu_only@experts=cpu", "gpu_only@experts=cpu:keep=28", "gpu_only@experts=cpu:keep=28:uniform@stream=512"
    ],
    "vllm": ["gpu_only", "prefetch_all", "on_demand"],
}  # fmt: skip


@pytest.mark.parametrize(("stack", "design"), [(stack, design) for stack in SAID for design in SAID[stack]])
def test_every_flag_is_one_that_the_engine_documents(stack: str, design: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", "streams")
    words = shlex.split(flags_of(EngineDesign(design, stack), model, hw, LOAD).command)
    written = {word for word in words[3 if "-m sglang.launch_server" in " ".join(words) else 1 :] if word[0] == "-"}
    documented = yaml.safe_load((ROOT / "pregate" / "engines" / "flags.yaml").read_text())[stack]
    assert documented["document"].startswith("https://github.com/")
    assert documented["read"] >= date(2026, 11, 28)
    assert written - {"-1,0"} <= set(documented["flags"])
    assert written


@pytest.mark.parametrize("stack", ["llama-cpp", "ik-llama", "ktransformers", "vllm"])
def test_a_benchmark_is_one_that_the_engine_documents(stack: str) -> None:
    words = shlex.split(benchmark_of(stack, RequestLoad(24, 40, 2)))
    documented = yaml.safe_load((ROOT / "pregate" / "engines" / "flags.yaml").read_text())[stack]
    assert documented["benchmark"]["document"].startswith("https://github.com/")
    assert {word for word in words if word[0] == "-"} - {"-m"} == set(documented["benchmark"]["flags"]) - {"-m"}
    assert {"24", "40", "2"} <= set(words)
    assert all(runs_on(stack, vendor) for vendor in documented.get("vendors", ["NVIDIA", "AMD", "Apple"]))
    assert runs_on(stack, "Apple") == ("vendors" not in documented)


def test_vllm_offloads_tensors_and_knows_no_experts() -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", "streams")
    said = {
        name: flags_of(EngineDesign(name, "vllm"), model, hw, LOAD)
        for name in ("gpu_only", "prefetch_all", "on_demand")
    }
    assert said["gpu_only"].command.startswith("vllm serve MODEL")
    assert "--offload-group-size 1" in said["prefetch_all"].command
    assert "--cpu-offload-gb 54 " in said["on_demand"].command
    assert "cannot be said" in flags_of(EngineDesign("gpu_only@experts=cpu", "vllm"), model, hw, LOAD).left_out


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", 80, "h100-sxm"),
        ("NVIDIA H100 PCIe", 80, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-sxm4-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40, "a100-pcie-40gb"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA H200", 141, "h200-sxm"),
        ("NVIDIA GeForce RTX 3060", 12, "rtx-3060-12gb"),
        ("NVIDIA RTX A6000", 48, "rtx-a6000"),
        ("NVIDIA L40S", 45, "l40s"),
    ],
)
def test_a_device_is_taken_for_the_known_one_of_its_name(name: str, gib: int, known: str) -> None:
    assert nearest_accelerator(Gpu(name, gib << 30, 0.0, 0, 0, 0)) == (known, True)


@pytest.mark.parametrize(
    ("name", "gib", "rate", "cores", "known"),
    [
        ("NVIDIA RTX 5880 Ada Generation", 48, 960e9, 14080, "rtx-6000-ada"),
        ("NVIDIA Z9000", 141, 4.8e12, 0, "h200-sxm"),
        ("NVIDIA A100-SXM4-40GB", 40, 1555e9, 6912, "a100-pcie-40gb"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6, 336e9, 3840, "rtx-4060-ti-8gb"),
        ("NVIDIA GeForce RTX 4090 D", 24, 1008e9, 14592, "rtx-4090d"),
        ("", 0, 0.0, 0, ""),
    ],
)
def test_a_device_that_nobody_describes_is_taken_for_the_nearest(
    name: str, gib: int, rate: float, cores: int, known: str
) -> None:
    taken, is_described = nearest_accelerator(Gpu(name, gib << 30, rate, cores, 0, 0))
    assert not is_described
    assert not known or taken == known


def test_a_host_is_taken_for_the_known_one_of_its_processor_or_its_cores() -> None:
    assert nearest_host("AMD Ryzen 9 7950X 16-Core Processor", 16) in ("desktop-ddr5", "ryzen-7950x-4dimm")
    assert nearest_host("AMD EPYC 7543 32-Core Processor", 32) == "epyc-7543"
    unknown = nearest_host("a processor of nobody", 16)
    assert isinstance(unknown, str)


def nvml(**told: object) -> SimpleNamespace:
    """What pynvml says of one card: an RTX 4090 where nothing else is `told`; an exception is raised."""
    answers = {
        "Init": None, "DeviceGetName": b"NVIDIA GeForce RTX 4090", "DeviceGetHandleByIndex": 0,
        "DeviceGetMemoryInfo": SimpleNamespace(total=24 << 30), "DeviceGetMaxPcieLinkGeneration": 4,
        "DeviceGetMaxPcieLinkWidth": 8, "DeviceGetMaxClockInfo": 10501, "DeviceGetMemoryBusWidth": 384, **told,
    }  # fmt: skip

    def function(answer: object) -> Callable[..., object]:
        def answered(*arguments: int) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answered

    return SimpleNamespace(**{f"nvml{name}": function(answer) for name, answer in answers.items()})


PROC = {
    "/proc/meminfo": "MemTotal:       65536000 kB\nMemFree: 1 kB\n",
    "/proc/cpuinfo": "\n".join(
        f"physical id\t: {i % 2}\nmodel name\t: AMD Ryzen 9 7950X 16-Core Processor\ncpu cores\t: 16\n"
        for i in range(4)
    ),
}


def test_what_is_found_is_taken_with_its_own_memory_and_link() -> None:
    found = find_machine(lambda path: PROC.get(path, ""), nvml())
    assert (found.hardware, found.link, found.n_cores) == ("rtx-4090", {"link": "pcie4-x8"}, 32)
    assert found.is_described
    hw = pregate.load_hardware(found.hardware, "streams", found.overrides)
    assert hw.machine.accelerator.hbm_bytes == 24 << 30
    assert hw.machine.host.dram_bytes == 65536000 * 1024
    assert hw.machine.link.name == "pcie4-x8"
    assert "claimed" in " ".join(found.told())


UNKNOWN = {"DeviceGetName": "NVIDIA Z9000", "DeviceGetMemoryInfo": SimpleNamespace(total=40 << 30)}


def test_a_device_that_nobody_describes_has_a_card_that_says_what_is_assumed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, its rate and the link are what the driver says; the rest is the nearest card's, by name."""
    library = nvml(**UNKNOWN, DeviceGetMaxClockInfo=7001, DeviceGetMemoryBusWidth=320, DeviceGetMaxPcieLinkWidth=2)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(command, "WELL_KNOWN", (("mixtral-mini-8", None),))
    status, out, err = run()
    assert (status, err) == (0, "")
    told = " ".join(out.split())
    assert "Found: NVIDIA Z9000, 40.0 GiB at 560 GB/s, PCIe 4.0 x2. No file describes it" in told
    assert "As found: the size of its memory, its rate, the link; assumed from" in told
    found = find_machine(lambda path: PROC.get(path, ""), library)
    machine = pregate.load_hardware(found.hardware, "streams", found.overrides).machine
    assert (machine.accelerator.hbm_bytes, machine.accelerator.hbm_bytes_per_s) == (40 << 30, 7001e6 * 2 * 320 / 8)
    assert machine.link.h2d_bytes_per_s == pytest.approx(2 * 1.969e9)
    assert (machine.link.pageable_h2d_bytes_per_s or 0) <= machine.link.h2d_bytes_per_s
    assert f"mixtral-mini-8 on {found.hardware}" in told


def test_what_a_driver_does_not_say_is_the_nearest_cards() -> None:
    refused = RuntimeError("Not Supported")
    names = ("DeviceGetMaxClockInfo", "DeviceGetMemoryBusWidth", "DeviceGetMaxPcieLinkGeneration")
    silent = nvml(**UNKNOWN, **dict.fromkeys(names, refused))
    found = find_machine(lambda path: PROC.get(path, ""), silent)
    assert not found.link
    assert set(found.overrides) == {"host", "host.dram_bytes", "accelerator.hbm_bytes"}
    assert "As found: the size of its memory; assumed from" in " ".join(found.told())


@pytest.mark.parametrize(
    ("generation", "width", "rate"), [(2, 16, 8e9), (1, 1, 0.25e9), (3, 4, 3.938e9), (6, 32, 236e9)]
)
def test_a_link_has_as_many_lanes_as_the_driver_says(generation: int, width: int, rate: float) -> None:
    library = nvml(DeviceGetMaxPcieLinkGeneration=generation, DeviceGetMaxPcieLinkWidth=width)
    found = find_machine(lambda path: PROC.get(path, ""), library)
    hw = pregate.load_hardware(found.hardware, "streams", found.overrides)
    assert hw.machine.link.h2d_bytes_per_s == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("text", ["", "MemTotal: many kB", "cpu cores : 9" * 1000])
def test_a_machine_without_a_device_says_what_its_card_is_of(text: str) -> None:
    found = find_machine(lambda path: text, nvml(Init=RuntimeError("NVML Shared Library Not Found")))
    assert found.gpu is None
    assert found.hardware == "rtx-4090"
    told = " ".join(found.told())
    assert "No accelerator found" in told
    assert "CPU back end" in told
    assert "claimed" in told


PLAN = ("plan", "mixtral-mini-8", "--hardware", "rtx-4090", "--stack", "streams", "--input-tokens", "16",
        "--output-tokens", "8")  # fmt: skip


def test_the_command_prints_the_card_in_each_format(run: Run) -> None:
    status, out, err = run(*PLAN)
    assert (status, err) == (0, "")
    assert "Limit (claimed" in out
    assert len(out.splitlines()) <= 24
    status, out, _ = run(*PLAN, "--details")
    assert (status, "Speed limit" in out) == (0, True)
    status, out, _ = run(*PLAN, "--format", "json", "--concurrency", "2", "--objective", "throughput")
    assert (status, json.loads(out)["job"]["batch"]) == (0, 2)
    status, out, _ = run(*PLAN, "--format", "markdown")
    assert out.startswith("## ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--objective", "speed"), "objective 'speed'"),
        (("--now", "nosuch"), "nosuch"),
        (("--now", "llama-cpp/gpu_only"), "unknown stack"),
        (("--stack", "nosuch"), "nosuch"),
        (("--host", "nosuch"), "nosuch"),
        (("--link", "pcie5-x16", "--set", "link=pcie4-x16"), "given twice"),
        (("--input-tokens", "0"), "below 1"),
        (("--output-tokens", "1"), "below 2"),
        (("--batch", "-1"), "below 1"),
        (("--batch", "1", "--concurrency", "2"), "given twice"),
        (("--trace", "/nosuch"), "nosuch"),
        (("--format", "yaml"), "yaml"),
        (("--hbm", "1MB"), "no design fits"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, words: tuple[str, ...], told: str) -> None:
    given = [word for word in PLAN if word not in ("--stack", "streams")] if words[0] == "--stack" else list(PLAN)
    for name, value in (("--input-tokens", "16"), ("--output-tokens", "8")):
        if name in words or "--trace" in words:
            at = given.index(name)
            assert given[at + 1] == value
            del given[at : at + 2]
    status, out, err = run(*given, *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err


def test_pregate_alone_says_what_it_found_and_prints_cards(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WELL_KNOWN", (("mixtral-mini-8", None), ("deepseek-v3", None)))
    status, out, err = run()
    assert (status, err) == (0, "")
    assert "Found:" in out
    assert "mixtral-mini-8 on rtx-4090" in out
    assert "deepseek-v3: no design fits" in " ".join(out.split()) or "deepseek-v3 on" in out
    assert "claimed" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_the_three_models_ship() -> None:
    for name, _ in command.WELL_KNOWN:
        assert textwrap.shorten(pregate.load_model(name).name, 80) == name
