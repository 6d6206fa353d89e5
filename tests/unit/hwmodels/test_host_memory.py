"""Kinds of host memory: what a copy of weights takes is the link's figure for the kind that the stack holds them in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

import pregate
from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform, load_platform
from hwmodels.specs.machine_fields import HOST_MEMORY
from hwmodels.specs.machine_files import SPECS, component_names, load_component
from hwmodels.specs.spec import LinkSpec
from hwmodels.stacks.stack_files import load_stack, stack_names
from offload.ops import OpKind, Work
from pregate.sweeps.machines import platform_at
from traces.errors import InvalidInput, UnknownName

SAME_SOCKET = tuple(kind for kind in HOST_MEMORY if kind != "remote")
"""Kinds that every link knows; what another socket's memory achieves is a number of the machine."""

EXPERT = Work(OpKind.FETCH, copy_bytes=9_437_184, n_copies=3)
IDS = Work(OpKind.READBACK, copy_bytes=4096)


def machine(**overrides: float | str) -> Platform:
    return load_platform("rtx-4090", "streams", {key.replace("__", "."): value for key, value in overrides.items()})


def seconds(platform: Platform, work: Work = EXPERT) -> float:
    return float(price_figures([work], figures_of(platform)).duration_s[0])


def held(kind: str, **overrides: float | str) -> Platform:
    return machine(stack__host_memory=kind, **overrides)


@pytest.mark.parametrize("stack", stack_names())
def test_every_stack_says_how_it_holds_weights(stack: str) -> None:
    # a mapped file whose pages are there, or tensors that nobody pins
    pageable = ("llama-cpp", "llama-cpp-late-2025", "llama-cpp-2023", "llama-cpp-2025", "ik-llama", "flexgen")
    assert load_stack(stack).host_memory == ("pageable" if stack in pageable else "pinned")


def test_pinned_weights_are_copied_at_the_claim_as_ever() -> None:
    hw = machine()
    rate = hw.machine.link.h2d_bytes_per_s * hw.constant("link_efficiency")
    assert seconds(hw) == 3 * hw.constant("copy_latency_s") + EXPERT.copy_bytes / rate
    assert seconds(held("pinned")) == seconds(hw)


def test_other_kinds_are_copied_at_the_links_rate_and_latency_of_the_kind() -> None:
    link = machine().machine.link
    assert link.pageable_h2d_bytes_per_s is not None
    assert link.pageable_copy_latency_s is not None
    expected = 3 * link.pageable_copy_latency_s + EXPERT.copy_bytes / link.pageable_h2d_bytes_per_s
    assert seconds(held("pageable", host="xeon-6330")) == pytest.approx(expected, rel=1e-12)
    mapped = held("mapped", link__mapped_h2d_bytes_per_s="2GB/s", link__mapped_copy_latency_s="1ms")
    assert seconds(mapped) == pytest.approx(3e-3 + EXPERT.copy_bytes / 2e9, rel=1e-12)


def test_without_a_latency_of_the_kind_it_is_that_of_any_copy() -> None:
    hw = held("mapped", link="pcie5-x16", link__mapped_h2d_bytes_per_s=2e9)
    assert hw.machine.link.mapped_copy_latency_s is None
    assert seconds(hw) == pytest.approx(3 * hw.constant("copy_latency_s") + EXPERT.copy_bytes / 2e9, rel=1e-12)


def test_no_kind_is_faster_than_pinned_memory() -> None:
    wide = held("pageable", link__pageable_h2d_bytes_per_s="500GB/s", link__pageable_copy_latency_s="10us")
    assert seconds(wide) == seconds(machine())
    assert [seconds(held(kind, host="xeon-6330")) for kind in ("gathered", "mapped", "pageable", "pinned")] == sorted(
        (seconds(held(kind, host="xeon-6330")) for kind in SAME_SOCKET), reverse=True
    )


@pytest.mark.parametrize("name", component_names("link"))
def test_every_link_says_what_every_kind_achieves(name: str) -> None:
    link = load_component("link", name)
    for kind in SAME_SOCKET[1:]:
        assert getattr(link, f"{kind}_h2d_bytes_per_s") > 0
        assert link.sources[f"{kind}_h2d_bytes_per_s"].source


@pytest.mark.parametrize("gen", [3, 4, 5, 6])
def test_a_narrower_link_is_never_faster_whatever_the_memory(gen: int) -> None:
    for kind in SAME_SOCKET:
        taken = [seconds(held(kind, link=f"pcie{gen}-x{lanes}")) for lanes in (4, 8, 16)]
        assert taken == sorted(taken, reverse=True)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_later_generation_is_never_slower_whatever_the_memory(lanes: int) -> None:
    for kind in SAME_SOCKET:
        link = [load_component("link", f"pcie{gen}-x{lanes}") for gen in (3, 4, 5, 6)]
        field = "h2d_bytes_per_s" if kind == "pinned" else f"{kind}_h2d_bytes_per_s"
        rates = [getattr(one, field) for one in link]
        assert rates == sorted(rates), kind


def test_memory_of_another_socket_is_slower_both_ways_where_the_link_says_so() -> None:
    link = load_component("link", "pcie3-x16")
    far, near = (held(kind, link="pcie3-x16") for kind in ("remote", "pinned"))
    bytes_per_s = dict(figures_of(far).values)["link.remote_h2d_bytes_per_s"]
    assert seconds(far) == pytest.approx(
        3 * far.constant("copy_latency_s") + EXPERT.copy_bytes / bytes_per_s, rel=1e-12
    )
    assert seconds(far, IDS) > seconds(near, IDS)
    assert isinstance(link, LinkSpec)
    assert link.remote_d2h_bytes_per_s == 2.54e9
    with pytest.raises(InvalidInput, match=r"set link\.remote_h2d_bytes_per_s"):
        seconds(held("remote", link="pcie5-x16"))


def test_what_comes_back_is_not_weights() -> None:
    assert seconds(held("gathered"), IDS) == seconds(machine(), IDS)


def test_a_rate_swept_over_many_machines_is_that_of_each() -> None:
    figures = figures_of(held("pageable"))
    rates = np.array([1e9, 8e9, 20e9, 500e9])
    many = price_figures([EXPERT], figures.with_values({"link.pageable_h2d_bytes_per_s": rates}), 4).duration_s[0]
    one_by_one = [seconds(held("pageable", link__pageable_h2d_bytes_per_s=rate)) for rate in rates.tolist()]
    assert many.tolist() == one_by_one


def test_a_link_that_says_nothing_of_a_kind_is_refused_with_the_way_out(tmp_path: Path) -> None:
    data = yaml.safe_load((SPECS / "accelerators" / "rtx-4090.yaml").read_text(encoding="utf-8"))
    rate = {"value": 10, "unit": "GB/s", "source": "measured elsewhere, see the notes"}
    data["link"] = {"h2d_bytes_per_s": rate, "d2h_bytes_per_s": rate}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    silent = load_platform(str(path), "streams", {"host": "xeon-6330", "stack.host_memory": "mapped"})
    with pytest.raises(InvalidInput, match=r"mine has no rate for mapped host memory: set link\.mapped_h2d"):
        seconds(silent)
    told = load_platform(str(path), "streams", {"stack.host_memory": "mapped", "link.mapped_h2d_bytes_per_s": "4GB/s"})
    assert seconds(told) > seconds(load_platform(str(path), "streams"))


def test_an_unknown_kind_is_refused_by_one_line() -> None:
    with pytest.raises(UnknownName, match="unknown kind of host memory 'pagable': did you mean 'pageable'"):
        held("pagable")
    with pytest.raises(UnknownName, match="unknown kind of host memory"):
        dataclasses.replace(load_stack("streams"), host_memory="")


def test_a_fit_of_pinned_copies_says_nothing_certain_of_other_memory() -> None:
    fitted = load_platform("a100-sxm4-80gb")
    other = load_platform("a100-sxm4-80gb", overrides={"stack.host_memory": "pageable"})
    assert (fitted.calibration("fp32"), other.calibration("fp32")) == ("fitted", "extrapolated")


def test_a_swapped_part_leaves_the_kind_of_memory_as_it_was() -> None:
    swapped = platform_at(held("pageable"), {"link": "pcie3-x16"})
    assert (swapped.stack.host_memory, swapped.machine.link.name) == ("pageable", "pcie3-x16")


def test_a_prediction_from_mapped_weights_takes_longer() -> None:
    model = pregate.load_model("switch-base-8")
    trace = pregate.synthesize(model, input_tokens=8, output_tokens=4, batch=1, seed=0)
    pinned, mapped = (pregate.simulate(model, held(kind), trace, policy="on_demand") for kind in ("pinned", "mapped"))
    assert mapped.tokens_per_s < pinned.tokens_per_s
    assert mapped.schedule_digest == pinned.schedule_digest


def test_what_the_host_stages_is_in_place_of_the_rate_of_the_link_unless_somebody_set_that() -> None:
    def on(**overrides: float | str) -> float:
        told = {key.replace("__", "."): value for key, value in overrides.items()}
        hw = load_platform("rtx-4090", "llama-cpp", {"host": "ryzen-7950x", "link": "pcie4-x16", **told})
        return float(figures_of(hw).link_bytes_per_s("h2d"))

    assert on() == 16.5e9
    assert on(host="xeon-6330") == 10e9  # nobody says: the median that the link has
    assert on(host__staging_bytes_per_s="7GB/s") == 7e9
    assert on(link__pageable_h2d_bytes_per_s="6GB/s") == 6e9
    assert on(link="pcie4-x8") == pytest.approx(0.82 * 15.753846e9)  # no faster than pinned memory
    figures = figures_of(load_platform("rtx-4090", "llama-cpp", {"host": "ryzen-7950x", "link": "pcie4-x16"}))
    assert figures.with_values({"host.staging_bytes_per_s": 4e9}).link_bytes_per_s("h2d") == 4e9
    assert figures.with_values({"link.pageable_h2d_bytes_per_s": 5e9}).link_bytes_per_s("h2d") == 5e9
    assert on(stack__host_memory="pinned") == pytest.approx(0.82 * 31.507692e9)
