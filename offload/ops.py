"""The vocabulary of a schedule: lanes that serve one op at a time, and the kinds of op they serve.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Literal, NamedTuple


class Lane(IntEnum):
    """A FIFO engine: one op at a time, in issue order."""

    HOST = 0
    """The issuing thread: launches, copy issues, blocking waits."""
    COMPUTE = 1
    """The accelerator's compute stream."""
    H2D = 2
    """The copy stream from host memory; device-to-device staging copies queue in the same stream."""
    D2H = 3
    """The copy stream to host memory."""
    DISK = 4
    """Reads from storage into pinned host memory."""
    CPU = 5
    """What the host's processor computes of the model."""


MOST_CARDS = 16
"""Cards that a schedule may be of; the compute streams of all but the first are lanes behind those of `Lane`."""

MOST_LANES = len(Lane) + MOST_CARDS - 1
"""Lanes that a schedule may have."""


class OpKind(IntEnum):
    """What an op does; a cost model prices it, a runtime executes it."""

    SELF_ATTENTION = 0
    CROSS_ATTENTION = 1
    GATE = 2
    """Gate GEMM, top-k, sort and permutation of the tokens by expert."""
    EXPERTS = 3
    """Expert FFNs (one grouped GEMM pair, or one expert), shared experts included."""
    DENSE_FFN = 4
    HEAD = 5
    """Final norm, LM head and sampling."""
    FETCH = 6
    """One expert, host memory to a slot in HBM."""
    STAGE = 7
    """One expert, HBM to HBM, into the buffer that the FFN reads."""
    READBACK = 8
    """The selected expert ids, HBM to host memory."""
    WAIT = 9
    """The host blocks until its dependencies are done."""
    STEP = 10
    """Host work once a forward pass: stopping criteria, sequence bookkeeping."""
    DISK_READ = 11
    """One expert, storage to pinned host memory."""
    CPU_EXPERT = 12
    """One expert FFN computed by the host."""
    ISSUE = 13
    """Host work of a run of copies: issuing all but the first of each."""
    HANDOVER = 14
    """Activations, HBM to host memory, for what the host computes; its threads are woken."""
    STREAM = 15
    """What passes through HBM for one use: experts of the host for a prompt, weights outside the routed experts, keys
    and values."""
    RETURN = 16
    """Activations, host memory to HBM: what the host has computed."""
    CPU_LAYER = 17
    """Attention, gate, dense FFN, shared experts or head computed by the host."""
    SORT = 18
    """Host work: the rows of a pass put in the order of their experts, by an engine that does so on the host; the cells
    of a KV cache that is streamed listed in theirs."""
    DRAFT = 19
    """Tokens proposed for the model to verify, by something of which only the time is known."""
    WRITE_BACK = 20
    """One expert that a cache lets go, a slot in HBM to host memory."""
    FILE = 21
    """One expert that was read, copied within host memory to where it is used from."""
    ZERO_COPY = 22
    """Weights that a kernel reads in host memory, over the link, while it computes: no copy, no buffer."""
    MASK = 23
    """Host work: which keys each token of a pass may attend to, looked at one by one."""
    JOIN = 24
    """The end of a kernel that reads weights in host memory: it has computed, and read them. No time of its own."""
    ALL_REDUCE = 25
    """What cards that share every layer have computed, added up over them, or put together."""
    SEND = 26
    """Activations, from the card of one layer to that of the next."""
    SCHEDULE = 27
    """Host work: the next forward pass decided and its inputs prepared, while this one computes."""


TimeClass = Literal["kernel", "h2d", "disk", "cpu", "host", "sync"]
"""What the time of an op is spent on as a whole; `kernel` is divided further by what bounds it."""


Place = Literal["storage", "buffer", "host", "slot"]
"""Where an expert lies: on storage, in a buffer of host memory that was filled for this use or kept, in host memory, in
a slot of HBM."""


class KindRow(NamedTuple):
    """What every room needs to know of a kind of op.

    `lane`: where it runs. `time`: the class of its time. `family`, `colour`: its name and colour in pictures.
    `is_kernel`: made of GEMMs and what lies between them, on the compute lane; every stack says what it launches, every
    calibration measures it. `takes`: where the weights of one expert
    are that it reads; from "host" it takes what a buffer was filled with, where it waits for that. `puts`: where it
    moves them. `streams`: it moves weights that the compute lane waits for and no slot holds.
    """

    lane: Lane
    time: TimeClass
    family: str
    colour: str
    is_kernel: bool = False
    takes: Place | None = None
    puts: Place | None = None
    streams: bool = False

    @property
    def moves_weights(self) -> bool:
        """Whether it copies or reads the weights of an expert, or others that the compute lane waits for."""
        return self.puts is not None or self.streams

    @property
    def in_host(self) -> bool:
        """Whether it leaves an expert in host memory."""
        return self.puts in ("buffer", "host")

    def goes_on(self, before: KindRow) -> bool:
        """Whether it may take an expert from where an op of the kind `before` has put it."""
        if self.puts is None or before.puts is None:
            return False
        return self.takes == before.puts or (self.takes == "host" and before.in_host)


KINDS: Mapping[OpKind, KindRow] = MappingProxyType(
    {
        OpKind.SELF_ATTENTION: KindRow(Lane.COMPUTE, "kernel", "attention", "#4B78B4", is_kernel=True),
        OpKind.CROSS_ATTENTION: KindRow(Lane.COMPUTE, "kernel", "attention", "#4B78B4", is_kernel=True),
        OpKind.GATE: KindRow(Lane.COMPUTE, "kernel", "gate", "#A52D4B", is_kernel=True),
        OpKind.EXPERTS: KindRow(Lane.COMPUTE, "kernel", "expert FFN", "#0FC3B4", is_kernel=True),
        OpKind.DENSE_FFN: KindRow(Lane.COMPUTE, "kernel", "dense FFN", "#B5E8DC", is_kernel=True),
        OpKind.HEAD: KindRow(Lane.COMPUTE, "kernel", "head", "#4B2DB4", is_kernel=True),
        OpKind.FETCH: KindRow(Lane.H2D, "h2d", "fetch", "#B4873C", takes="host", puts="slot"),
        OpKind.STAGE: KindRow(Lane.H2D, "kernel", "stage", "#F0DC78", takes="slot", puts="slot"),
        OpKind.READBACK: KindRow(Lane.D2H, "sync", "read-back", "#A52D4B"),
        OpKind.WAIT: KindRow(Lane.HOST, "sync", "host", "#999999"),
        OpKind.STEP: KindRow(Lane.HOST, "host", "host", "#999999"),
        OpKind.DISK_READ: KindRow(Lane.DISK, "disk", "storage", "#691E5A", takes="storage", puts="buffer"),
        OpKind.CPU_EXPERT: KindRow(Lane.CPU, "cpu", "expert FFN", "#0FC3B4", takes="host"),
        OpKind.ISSUE: KindRow(Lane.HOST, "host", "host", "#999999"),
        OpKind.HANDOVER: KindRow(Lane.D2H, "sync", "hand-over", "#E19BC8"),
        OpKind.STREAM: KindRow(Lane.H2D, "h2d", "stream", "#7A3E10", streams=True),
        OpKind.RETURN: KindRow(Lane.H2D, "sync", "hand-over", "#E19BC8"),
        OpKind.CPU_LAYER: KindRow(Lane.CPU, "cpu", "layer on the CPU", "#9669F0"),
        OpKind.SORT: KindRow(Lane.HOST, "host", "host", "#999999"),
        OpKind.DRAFT: KindRow(Lane.COMPUTE, "kernel", "draft", "#99993A"),
        OpKind.WRITE_BACK: KindRow(Lane.D2H, "h2d", "write-back", "#5A3C0A", takes="slot", puts="host"),
        OpKind.FILE: KindRow(Lane.CPU, "cpu", "filing", "#4B3264", takes="buffer", puts="buffer"),
        OpKind.ZERO_COPY: KindRow(Lane.H2D, "h2d", "zero-copy read", "#ACD410", streams=True),
        OpKind.MASK: KindRow(Lane.HOST, "host", "host", "#999999"),
        OpKind.JOIN: KindRow(Lane.COMPUTE, "sync", "zero-copy read", "#ACD410"),
        OpKind.ALL_REDUCE: KindRow(Lane.COMPUTE, "sync", "all-reduce", "#5A1900"),
        OpKind.SEND: KindRow(Lane.COMPUTE, "sync", "send", "#2E0D00"),
        OpKind.SCHEDULE: KindRow(Lane.HOST, "host", "host", "#999999"),
    }
)
"""The kinds of op, a row each, in the order of `OpKind`; colours differ in lightness within a lane."""

TRANSFERS = tuple(kind for kind, row in KINDS.items() if row.moves_weights)
"""Kinds of op that move weights."""

TO_DEVICE = tuple(kind for kind, row in KINDS.items() if row.lane is Lane.H2D and row.takes != "slot")
"""Kinds of op whose bytes cross the link to the device."""

KERNEL_KINDS = tuple(kind for kind, row in KINDS.items() if row.is_kernel)
"""Kinds of op that are made of GEMMs and what lies between them."""


class Gemm(NamedTuple):
    """`n_gemms` products of an (m, k) activation with a (k, n) weight."""

    m: int
    n: int
    k: int
    n_gemms: int = 1


class Attending(NamedTuple):
    """The shape of an attention: `n_tokens` query rows of `n_sequences`, heads, and what is read of a cached token.

    `key_width`, `value_width`: of one head, as scores are multiplied (latent attention absorbed: the latent, and one
    head of keys for all). `token_bytes` of HBM for each cached token, so that `hbm_bytes / token_bytes` are read.
    `window`: tokens that each sees at most, within a window or picked for a prompt, 0 all. `made_share`: of what is
    read, what moves before any score is multiplied, as keys and values are made of latents by kernels of their own.
    """

    n_tokens: int
    n_sequences: int
    n_heads: int
    n_kv_heads: int
    key_width: int
    value_width: int
    token_bytes: float
    window: int = 0
    made_share: float = 0.0

    @property
    def is_latent(self) -> bool:
        """Whether all heads read one latent as keys, and most of it again as values."""
        return self.n_kv_heads == 1 and self.value_width < self.key_width


class FusedExperts(NamedTuple):
    """Experts of one fused op: `n_experts` over `n_rows` pairs of token and expert, the first `n_gemms` of its GEMMs.

    Each two of those are the projections up and down of the experts that have as many rows; shared experts follow.
    `n_tokens`: how many tokens these are at least.
    """

    n_experts: int
    n_rows: int
    n_gemms: int
    n_tokens: int


class Piece(NamedTuple):
    """One matrix of an expert, number `i` of its `n` in the order in which they lie: those up, then that down."""

    i: int
    n: int

    @property
    def is_last(self) -> bool:
        """Whether the expert is whole, or computed, with it."""
        return self.i == self.n - 1


class ReadRounds(NamedTuple):
    """How storage is read for one op: it begins `n_rounds` rounds of reads at once, of at most `n_bytes` each."""

    n_rounds: int
    n_bytes: int


class Work(NamedTuple):
    """What an op asks of a machine, without saying which: the row of a cost table.

    `gemms` read their weights once, `weight_bits` a parameter as they are stored, and multiply in the format `compute`.
    `flop` is arithmetic outside of them (attention scores), in the format `flop_compute` ("": the GEMMs'); `hbm_bytes`
    HBM traffic outside of them (KV cache); `copy_bytes` what crosses a link or is copied in HBM. `slots_bytes`: of
    expert weights, all of the HBM that fetched experts go round in, so that few slots may stay in a cache; 0 for
    weights that stay where they are.
    `n_copies`: copies that an op makes one after the other, `copy_bytes` being of all (`offload.slots.copy_runs`); 0 of
    experts that another card computes, whose own host issues them.
    `n_entries`: what is gone through one by one: of a table of experts by token what the host looks at, tokens drafted,
    prompts whose kernels are loaded, entries of a mask, cards that a sum is over, or that send together, bytes that all
    blocks of rows read of weights on the host.
    `attending`: the shape of an attention, whose context is in `flop` and `hbm_bytes`; `fused`: experts in one op.
    `reading`: how storage is read, None at once.
    `piece`: the matrix of an expert that an op moves or multiplies by; None: all of it.
    `stored`: the format of the weights that a host's core unpacks; empty: it multiplies them as they are.
    """

    kind: OpKind
    gemms: tuple[Gemm, ...] = ()
    compute: str = "fp32"
    weight_bits: float = 32.0
    flop: int = 0
    hbm_bytes: int = 0
    copy_bytes: int = 0
    slots_bytes: int = 0
    flop_compute: str = ""
    n_copies: int = 1
    n_entries: int = 0
    attending: Attending | None = None
    fused: FusedExperts | None = None
    reading: ReadRounds | None = None
    piece: Piece | None = None
    stored: str = ""

    @property
    def flop_format(self) -> str:
        """The format of the arithmetic outside of the GEMMs."""
        return self.flop_compute or self.compute

    @property
    def n_rows(self) -> int:
        """Tokens that it computes with, at least: those of fused experts, else rows of its largest GEMM."""
        if self.fused is not None:
            return self.fused.n_tokens
        return max((gemm.m for gemm in self.gemms), default=0)

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that the GEMMs read."""
        return sum(g.n * g.k * g.n_gemms for g in self.gemms) * self.weight_bits / 8

    @property
    def total_flop(self) -> int:
        """All floating-point operations, 2 per multiply-add."""
        return self.flop + sum(2 * g.m * g.n * g.k * g.n_gemms for g in self.gemms)
