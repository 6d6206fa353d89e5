"""The numbers that prices are made of, by dotted key, for one platform or for many that differ in a few of them.

`link.h2d_bytes_per_s` is the machine's, `stack.sync_s` the software's. A value is a float, or an array with a value for
each of `n` machines: a formula written in `+ - * /` and `np.maximum` serves both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import PEAK_DTYPES, UNPACKED_BITS, computes_in, is_unpacked
from hwmodels.laws.beyond_table import ExtendedTable, extended_tables
from hwmodels.laws.fitted_law import FittedLaw
from hwmodels.platform import Platform, measured_machine
from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_fields import FIELDS, WAYS, check_figure, find_field
from hwmodels.stacks.stack import CONSTANTS, UNPACKING, SoftwareStack, check_constant
from offload.ops import OpKind, Work
from traces.errors import InvalidInput, unknown_name

CONTENTION = ("host.copies_beside_cpu", "host.cpu_beside_copies")
"""What copies to the device and the host's processor keep of their rates while both read host memory."""

MEMORY_FIGURES = (
    "accelerator.hbm_bytes", "accelerator.n_cards", "host.dram_bytes", "stack.reserve_bytes", "stack.memory_share",
)  # fmt: skip
"""Sizes of memory: they decide what a schedule is, not what it takes."""

_OF_STACK = "stack.link_efficiency"
_LINK_SHARES = tuple(f"link.{way}_efficiency" for way in WAYS)
"""What copies achieve of the link's rates: the stack's claim or a fit of it, and what the link was seen to do."""

_UNPACK = "stack.unpack_s"
_UNPACKING = tuple(f"stack.{name}" for name in UNPACKING)

_STAGING = "host.staging_bytes_per_s"
_STAGED = ("link.pageable_h2d_bytes_per_s", "link.mapped_h2d_bytes_per_s")
"""What a host stages, and the rates of a link that it is in place of."""

_BESIDE = "stack.beside_copies_s"

_CUTS = frozenset({OpKind.HANDOVER, OpKind.RETURN, OpKind.STREAM})
"""What crosses the link where a pass has parts on the host."""

Number = Any
"""A float, or (n_machines,) float64; complex where a derivative is taken by a complex step."""


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Every number of a platform, or of many: `values` by dotted key, each a float or (n_machines,).

    `stack` owns what is counted, not measured (launches, tile); `hardware` names the accelerator in messages.
    `gemm_tables`: utilisation by number format, where a fit measured kernels; then `values` has `kernel.` keys.
    `offloaded`: whether what is priced fetches experts meanwhile; None until the schedule is known. `is_cut`: whether
    its passes are cut between accelerator and host. `scatter`: by
    kind, "gate", what its ops take over what their law says, where machines are draws; empty: the law at its word.
    `laws`: of kernels, where a public table of them was fitted. `apart`: whether an engine tells by the clock which
    kernels run beside copies, so that no average over all of a schedule stands for it. `said`: shares of the link that
    the user or a fit of this machine says, which stay whatever the stack's own is.
    """

    values: Mapping[str, Number]
    stack: SoftwareStack
    hardware: str
    gemm_tables: Mapping[str, ExtendedTable] = field(default_factory=lambda: ReadOnly({}))
    offloaded: bool | None = None
    is_cut: bool = False
    scatter: Mapping[str, Number] = field(default_factory=lambda: ReadOnly({}))
    laws: tuple[FittedLaw, ...] = ()
    apart: bool = False
    said: frozenset[str] = frozenset()

    def __getitem__(self, key: str) -> Number:
        return self.values[key]

    def with_values(self, values: Mapping[str, Number]) -> Figures:
        """These figures with others in their place. Raises `UnknownName` for a key that is none."""
        for key in values:
            if key not in figure_keys() and key not in self.values:
                raise unknown_name("hardware number", key, figure_keys())
        said = self.said.union(key for key in _LINK_SHARES if key in values)
        kept = _without_link_share(self.values, said) if _OF_STACK in values else self.values
        if not values.keys().isdisjoint(_UNPACKING):
            kept = {key: value for key, value in kept.items() if key not in _UNPACKING}
        return replace(self, values=ReadOnly({**kept, **_staged_once(values, values)}), said=said)

    def of_machine(self, i: int) -> Figures:
        """The figures of one of many machines."""
        one = {key: float(value[i]) if isinstance(value, np.ndarray) else value for key, value in self.values.items()}
        scatter = {kind: float(value[i]) for kind, value in self.scatter.items()}
        return replace(self, values=ReadOnly(one), scatter=ReadOnly(scatter))

    def for_works(self, works: Iterable[Work]) -> Figures:
        """These figures for a schedule of `works`: offloaded if it fetches experts, cut if it streams weights or hands
        activations over to the host, unless that is settled already.
        """
        return self if self.offloaded is not None else self.with_works(works)

    def with_works(self, works: Iterable[Work]) -> Figures:
        """These figures for a schedule that has `works` too."""
        kinds = {work.kind for work in works}
        offloaded, is_cut = OpKind.FETCH in kinds, not kinds.isdisjoint(_CUTS)
        return replace(self, offloaded=bool(self.offloaded) or offloaded, is_cut=self.is_cut or is_cut)

    def stack_constant(self, name: str) -> Number:
        """A constant of the stack; its `dequant_efficiency` on this card where it says what a weight takes on any."""
        if name == "dequant_efficiency" and _UNPACK in self.values:
            return 1 / (1 + self.values[_UNPACK] * self.hbm_bytes_per_s * 8 / UNPACKED_BITS)
        return self.values[f"stack.{name}"]

    def launch_of(self, work: Work) -> Number:
        """Host time to launch a kernel of `work`: where passes are cut, or have more tokens than a CUDA graph is kept
        for, that of the stack for kernels that no graph spans.
        """
        alone = self.values.get("stack.split_launch_s") if self.is_cut else None
        if alone is None and not self.in_graph(work):
            alone = self.values.get("stack.batch_launch_s")
        return self.stack_constant("launch_s") if alone is None else alone

    def in_graph(self, work: Work) -> bool:
        """Whether a pass of as many tokens as `work` has is one CUDA graph, where its stack keeps graphs of few."""
        return not self.stack.graph_tokens or work.n_rows <= self.stack.graph_tokens

    def kernel(self, kind: OpKind, name: str) -> Number | None:
        """A measured constant of a kind of op; None where there is none."""
        return self.values.get(f"kernel.{kind.name.lower()}.{name}")

    def kernel_of(self, work: Work, name: str) -> Number | None:
        """A fitted constant of ops like `work`: of the format whose GEMMs they are priced by, where the kind was fitted
        by format.
        """
        table = self.gemm_table(work.compute)
        of_format = (
            None if table is None else self.values.get(f"kernel.{work.kind.name.lower()}.{table.table.dtype}.{name}")
        )
        return self.kernel(work.kind, name) if of_format is None else of_format

    def gemm_table(self, compute: str) -> ExtendedTable | None:
        """The utilisation of GEMMs in `compute`; of another format where that one was not measured."""
        found = self.gemm_tables.get(self.computes_in(compute))
        return found if found is not None else next(iter(self.gemm_tables.values()), None)

    def computes_in(self, compute: str) -> str:
        """The format in which the accelerator multiplies what asks for `compute`."""
        if f"accelerator.peak_flop_per_s.{compute}" in self.values:
            return compute
        stated = [name for name in PEAK_DTYPES if f"accelerator.peak_flop_per_s.{name}" in self.values]
        return computes_in(compute, stated)

    def multiplied_in(self, work: Work) -> str:
        """The format in which the weights of `work` are multiplied: the stack's for those that are unpacked."""
        stated = self.stack.packed_compute
        return stated if stated and is_unpacked(work.weight_bits, self.computes_in(work.compute)) else work.compute

    def peak_flop_per_s(self, compute: str) -> Number:
        """What the accelerator claims for `compute`, or for the format that it computes that in."""
        return self.values[f"accelerator.peak_flop_per_s.{self.computes_in(compute)}"]

    def read_bits(self, work: Work) -> Number:
        """Bits a weight that reading the weights of `work` is priced as: what is unpacked on the way takes longer.

        `dequant_efficiency` is the share of the memory rate at which weights of 4 bits are read and unpacked. Unpacking
        is work a weight, so that each takes as long as some more bits, whatever its own width. Weights of 16 bits and
        more, and those in the format that the card computes in, cost nothing beyond their bits. A stack may say what a
        weight takes on any card instead (`unpack_s`).
        """
        if not is_unpacked(work.weight_bits, self.computes_in(work.compute)):
            return work.weight_bits
        return work.weight_bits + UNPACKED_BITS * (1 / self.stack_constant("dequant_efficiency") - 1)

    def cycles_s(self, name: str) -> Number:
        """A fixed time of kernels, `name` of the stack, at the accelerator's clock; 0 where the stack states none."""
        stated, clock_hz = self.values.get(f"stack.{name}", 0.0), self.values.get("stack.kernel_clock_hz")
        return stated if clock_hz is None else stated * clock_hz / self.values["accelerator.clock_hz"]

    @property
    def copy_latency_s(self) -> Number:
        """Fixed time of a copy over the link: the link's where one is stated, else the stack's."""
        stated = self.values.get("link.copy_latency_s")
        return self.stack_constant("copy_latency_s") if stated is None else stated

    @property
    def fetch_latency_s(self) -> Number:
        """Fixed time of a copy of weights: the link's for memory of the stack's kind, else of any copy."""
        stated = self.values.get(f"link.{self.stack.host_memory}_copy_latency_s")
        return self.copy_latency_s if stated is None else stated

    @property
    def hbm_bytes_per_s(self) -> Number:
        """What kernels achieve of the HBM bandwidth."""
        return self.values["accelerator.hbm_bytes_per_s"] * self.stack_constant("hbm_efficiency")

    def context_bytes_per_s(self, work: Work) -> Number:
        """What `work` achieves of the HBM bandwidth beside its weights: keys and values at a rate of their own where
        the stack says one, latents and states as all else.
        """
        share = self.values.get("stack.attention_efficiency")
        if share is None or work.attending is None or work.attending.is_latent:
            return self.hbm_bytes_per_s
        return self.values["accelerator.hbm_bytes_per_s"] * share

    def link_bytes_per_s(self, direction: str) -> Number:
        """What copies achieve: `direction` is "h2d" or "d2h".

        From or into host memory of the kind that the stack holds weights in: for other kinds than pinned the link's
        figure, at most what pinned memory achieves, and as pinned on the way back where nobody says. Cards that share
        every layer copy at the same time, and have no more than host memory gives all of them. Raises `InvalidInput`
        where the link has none to the device.
        """
        pinned = self._pinned_bytes_per_s(direction)
        kind = self.stack.host_memory
        key = f"link.{kind}_{direction}_bytes_per_s"
        if kind == "pinned" or (direction == "d2h" and key not in self.values):
            return pinned
        if key not in self.values:
            raise InvalidInput(
                f"the link of {self.hardware} has no rate for {kind} host memory: "
                f"set {key} (such as 8GB/s), or stack.host_memory=pinned"
            )
        return slower(pinned, self.values[key])

    def _pinned_bytes_per_s(self, direction: str) -> Number:
        share = self.values.get(f"link.{direction}_efficiency")
        rate = self.values[f"link.{direction}_bytes_per_s"] * (self.values[_OF_STACK] if share is None else share)
        n_cards = self.values.get("accelerator.n_cards", 1)
        if n_cards == 1 or not self.stack.execution.shares_layers:
            return rate
        return slower(rate, self.values["host.dram_bytes_per_s"] / n_cards)  # of cards that copy at the same time

    @property
    def crossing_slowdown(self) -> Number:
        """How many times as long a transfer takes while another goes the other way all the while: both together move no
        more than the link's `both_ways_bytes_per_s`. 1 where nobody says.
        """
        cap = self.values.get("link.both_ways_bytes_per_s")
        if cap is None:
            return 1.0
        alone = self._pinned_bytes_per_s("h2d") + self._pinned_bytes_per_s("d2h")
        return np.where(np.real(alone) > np.real(cap), alone / cap, 1.0)

    def require_contention(self) -> None:
        """Raise `InvalidInput` unless the host says what copies and its processor keep of their rates together."""
        for key in CONTENTION:
            if key not in self.values:
                raise InvalidInput(
                    f"the host of {self.hardware} says nothing of {key}: measure it (pregate measure), or state the "
                    f"share of its rate that is left, --set {key}=0.85 (copies were seen to keep 0.71 to 0.96)"
                )

    @property
    def knows_beside_copies(self) -> bool:
        """Whether somebody says what copies cost the kernels beside them."""
        return _BESIDE in self.values

    def told_apart(self) -> Figures:
        """These figures for an engine that knows when copies are under way. Raises `InvalidInput` unless the stack says
        what they cost the kernels beside them.
        """
        if not self.knows_beside_copies:
            raise InvalidInput(
                f"nobody says what copies cost the kernels beside them with {self.stack.name} on {self.hardware}: "
                f"measure it (pregate measure), or state it, --set {_BESIDE}=6us"
            )
        return replace(self, apart=True)

    def flop_per_s(self, compute: str) -> Number:
        """What GEMMs in `compute` achieve; those of unpacked weights have tiles of the card's own."""
        rate = self.peak_flop_per_s(compute) * self.stack_constant("gemm_efficiency")
        return rate * self.stack.fused_tile.arithmetic if compute == self.stack.packed_compute else rate

    def scores_s(self, work: Work) -> Number:
        """What the arithmetic of `work` outside of its GEMMs takes. Where an attention sums values in 16 bits their
        share is multiplied at the rate of 16-bit sums, half of that of 8-bit integers: GeForce cards have half of it
        for sums of 32 bits (NVIDIA's Turing, GA102, Ada and RTX Blackwell white papers), others the same.
        """
        whole_s, shape = work.flop / self.flop_per_s(work.flop_format), work.attending
        integers = self.values.get("accelerator.peak_flop_per_s.int8")
        halves = self.computes_in(work.flop_format) in ("fp16", "bf16")
        if not self.stack.half_sums or shape is None or integers is None or not halves:
            return whole_s
        peak = self.peak_flop_per_s(work.flop_format)
        of_values = shape.value_width / (shape.key_width + shape.value_width)
        return whole_s * (1 - of_values * (1 - slower(1.0, 2 * peak / integers)))


def slower(one: Number, other: Number) -> Number:
    """The smaller of two rates."""
    if type(one) is float and type(other) is float:
        return min(one, other)
    return np.where(np.real(one) <= np.real(other), one, other)


def figure_keys() -> tuple[str, ...]:
    """Every key that a machine or a stack can have."""
    machine = [f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields]
    return (*machine, *(f"stack.{name}" for name in CONSTANTS))


def figures_of(platform: Platform) -> Figures:
    """The figures of one platform; what its machine does not state is absent."""
    values: dict[str, float] = {}
    for kind, fields in FIELDS.items():
        component = getattr(platform.machine, kind)
        for name in fields:
            attribute, _, dtype = name.partition(".")
            value = getattr(component, attribute)
            value = value.get(dtype) if dtype else value
            if value is not None:
                values[f"{kind}.{name}"] = float(value)
    values |= {f"stack.{name}": value for name, value in platform.constants.items()}
    asked = _link_shares_said(platform)
    values = _with_one_link_share(values, platform, asked)
    link = platform.machine.link.sources.items()
    said = {f"link.{name}" for name, one in link if one.source.startswith(("override", "fitted"))}
    values = _staged_once(values, said)
    fit = platform.fit
    if fit is not None:
        values |= {f"kernel.{name}": constant.value for name, constant in fit.kernels.items()}
    tables: Mapping[str, ExtendedTable] = {}
    if fit is not None and fit.gemm_tables:
        tables = extended_tables(fit.gemm_tables, measured_machine(fit).accelerator)
    laws = fit.laws if fit is not None else ()
    return Figures(ReadOnly(values), platform.stack, platform.hardware, ReadOnly(tables), laws=laws, said=asked)


def _link_shares_said(platform: Platform) -> frozenset[str]:
    """The shares of the link that the user says, or a fit of this machine."""
    known = platform.fit.link if platform.fit is not None and _fits_link(platform) else ()
    sources = platform.machine.link.sources.items()
    said = {f"link.{name}" for name, one in sources if name in known or one.source == "override"}
    return frozenset(said.intersection(_LINK_SHARES))


def _fits_link(platform: Platform) -> bool:
    """Whether a fit of this machine says what copies achieve of the link."""
    fit = platform.fit
    return fit is not None and fit.hardware == platform.machine.accelerator.name and "link_efficiency" in fit.constants


def _with_one_link_share(values: dict[str, float], platform: Platform, said: Collection[str]) -> dict[str, float]:
    """`values` with what copies achieve of the link said once: by the user, by a fit of this machine (both `said`), by
    the link, or else by the stack.
    """
    if _fits_link(platform) or "link_efficiency" in platform.overridden:
        values = _without_link_share(values, said)
    if all(key in values for key in _LINK_SHARES):
        return {key: value for key, value in values.items() if key != _OF_STACK}
    return values


def _staged_once(values: Mapping[str, Number], said: Collection[str]) -> dict[str, Number]:
    """`values` with copies from ordinary memory at what the host stages, where it says so and they are not `said`."""
    staged = values.get(_STAGING)
    kept = {key: value for key, value in values.items() if key != _STAGING}
    return kept if staged is None else kept | {key: staged for key in _STAGED if key not in said}


def _without_link_share(values: Mapping[str, Number], but: Collection[str] = ()) -> dict[str, Number]:
    return {key: value for key, value in values.items() if key not in _LINK_SHARES or key in but}


def check_axis(key: str, values: NDArray[np.float64]) -> None:
    """Raise `InvalidInput` naming the first of `values` that number `key` cannot have, `UnknownName` for the key."""
    stack_constant = key.removeprefix("stack.")
    for value in values.tolist():
        if key.startswith("stack."):
            check_constant(stack_constant, value, key)
        else:
            check_figure(*find_field(key), value)
