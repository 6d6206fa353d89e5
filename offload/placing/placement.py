"""Where the parts of a model live and run: in HBM, on the host's processor, or streamed through HBM for one use.

A placement is stated for any model; `offload.placing.placed` says what it means for one. A policy decides within it: of
the experts that no placement holds, what to move and when. Nothing here may know time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from offload.execution import Execution
from offload.placing.layers import EVERYWHERE, LayerRange, Layers
from traces.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Placement:
    """Where parts of a decoder live that are not simply in HBM. Raises `InvalidInput` for what contradicts itself."""

    host_experts: LayerRange | None = None
    """MoE layers whose routed experts live in host memory and run on the host's processor."""
    n_kept: int = 0
    """Experts of each such layer that stay in HBM: the most popular."""
    uniform: bool = False
    """Whether those kept are the first of a layer instead, whatever is asked for."""
    host_layers: LayerRange | None = None
    """Layers that live and run on the host whole, attention and KV cache included; all layers take the head along."""
    streamed: Layers | None = None
    """Layers whose weights outside the routed experts wait in host memory and pass through HBM in each forward pass."""
    streamed_experts: Layers | None = None
    """Layers whose routed experts pass so, all of them."""
    ahead: int | None = None
    """Layers of those streamed that are brought before they are needed. 0: when their layer begins; n: once the n-th of
    them before it has run, and the first n when the pass begins; None: the next while one runs.
    """
    zero_copy_experts: LayerRange | None = None
    """Layers whose routed experts wait in host memory, where the device's kernels read them."""
    zero_copy_weights: LayerRange | None = None
    """Layers whose weights outside the routed experts are read so."""
    kv: str = "device"
    """The KV cache of layers on the device: in HBM (device), in host memory and attended to there (host), or streamed
    from there (stream).
    """
    expert_share: float = 1.0
    """Of the bytes of experts that have another home than HBM, what is there: above 0, at most 1. Of experts that the
    host runs these are whole ones, over all layers as near as can be.
    """
    streamed_share: float = 1.0
    """The same of other weights that are streamed or read in host memory."""
    kv_share: float = 1.0
    """The same of the KV cache."""
    micro_batch: int | None = None
    """Tokens of a prompt in one pass, 0: all; None: as the execution has it."""
    stream_from: int | None = None
    """Tokens of a pass from which on the host's experts are streamed to the device, 0: never; None: as the execution
    has it.
    """
    micro_sequences: int | None = None
    """Sequences that a layer computes together; what was fetched for it serves one such micro-batch after the other."""
    fits: bool = False
    """Whether as many layers are kept off the host as HBM has room for, which is known where memory is planned."""
    beside: bool = False
    """Whether threads of their own compute the host's experts while the device computes those of the same layer in HBM,
    in an engine whose issuing thread would do one after the other.
    """
    expert_groups: int | None = None
    """Groups of the cards that share every layer, each of which has whole experts, 0: each card; None: every card has a
    share of every expert.
    """
    redundant: int | None = None
    """Experts of each layer that a card has besides, where whole ones are spread by how much each serves; None: whole
    experts are on the cards in order.
    """
    turns: int | None = None
    """Groups of cards that a token passes through in turn, each with whole layers; 1: all cards share each layer; None:
    as the engine has it.
    """
    copies: int = 1
    """Copies of attention, each on as many cards with sequences of its own, which share the experts."""

    def __post_init__(self) -> None:
        if self.redundant is not None and self.expert_groups is None:
            raise InvalidInput(f"redundant={self.redundant}: of whole experts on cards, say experts=whole too")
        if self.fits and (self.host_layers is not None or self.keeps or self.host_experts not in (None, EVERYWHERE)):
            raise InvalidInput("experts=cpu:fit chooses the layers of the host itself: name no others, and no keep=")
        if self.kv not in ("device", "host", "stream"):
            raise InvalidInput(f"kv = {self.kv!r}: a KV cache is on the device, on the host, or streamed (stream)")
        if self.beside and self.host_experts is None:
            raise InvalidInput("host=beside says how experts of the host run: give experts=cpu with it")
        if self.host_experts is not None and self.streamed_experts is not None:
            raise InvalidInput("experts=cpu and experts=stream: experts that are not in HBM have one home, give one")
        self._check_over_link()
        if self.ahead is not None and not self.streams:
            raise InvalidInput(f"ahead = {self.ahead} is of layers that are streamed: give weights=stream with it")
        if self.n_kept < 0:
            raise InvalidInput(f"keep = {self.n_kept} experts a layer is below 0: give how many stay in HBM")
        if self.micro_sequences is not None and self.micro_sequences < 1:
            raise InvalidInput(f"micro = {self.micro_sequences} sequences in a micro-batch is below 1: give 1 or more")
        if self.micro_sequences is not None and (self.host_experts is not None or self.host_layers is not None):
            raise InvalidInput(
                f"micro = {self.micro_sequences}: micro-batches share what is fetched for a layer, and what the host "
                f"computes is not fetched: leave out experts=cpu and layers=cpu"
            )
        if self.n_kept and self.host_experts is None:
            raise InvalidInput(
                f"keep = {self.n_kept} says how many experts stay in HBM beside experts=cpu: give both, or neither"
            )
        self._check_shares()

    def _check_shares(self) -> None:
        """Shares are fractions, of parts that are not in HBM."""
        for part, share, away in (
            (
                "experts",
                self.expert_share,
                (self.host_experts or self.zero_copy_experts or self.streamed_experts) is not None,
            ),
            ("weights", self.streamed_share, (self.streamed or self.zero_copy_weights) is not None),
            ("kv", self.kv_share, self.kv != "device"),
        ):
            if not 0 < share <= 1:
                raise InvalidInput(
                    f"{part}: share = {share:g} of the bytes is outside (0, 1]; leave the clause out for 0"
                )
            if share < 1 and not away:
                raise InvalidInput(f"{part}: share = {share:g} is of what is not in HBM, and all of it is")
        if self.expert_share < 1 and self.n_kept:
            raise InvalidInput("experts: keep and share both say what stays in HBM: give one")

    def _check_over_link(self) -> None:
        """Kernels that read host memory have the link to themselves."""
        if not self.zero_copies:
            return
        beside = {
            "experts=cpu": self.host_experts, "layers=cpu": self.host_layers, "weights=stream": self.streamed,
            "experts=stream": self.streamed_experts,
            f"kv={self.kv}": None if self.kv == "device" else self.kv, "micro": self.micro_sequences,
        }  # fmt: skip
        for clause, where in beside.items():
            if where is not None:
                raise InvalidInput(
                    f"zerocopy: kernels that read weights in host memory have the link to themselves here: leave out "
                    f"{clause}"
                )

    @property
    def streams(self) -> bool:
        """Whether weights pass through HBM in every forward pass."""
        return self.streamed is not None or self.streamed_experts is not None

    @property
    def zero_copies(self) -> bool:
        """Whether kernels of the device read weights in host memory."""
        return self.zero_copy_experts is not None or self.zero_copy_weights is not None

    @property
    def keeps(self) -> bool:
        """Whether some experts of layers on the host stay in HBM, so that their popularity matters."""
        return self.n_kept > 0 or (self.expert_share < 1 and self.host_experts is not None)

    @property
    def goes_by_popularity(self) -> bool:
        """Whether what is where depends on how much each expert serves."""
        return self.keeps or self.redundant is not None

    def execution(self, execution: Execution) -> Execution:
        """`execution` with the prompt passing, and the host computing, as the placement says."""
        if self.micro_batch is not None:
            execution = replace(execution, micro_batch=self.micro_batch)
        if self.stream_from is not None:
            execution = replace(execution, stream_tokens=self.stream_from, stream_per_expert=False)
        if self.micro_sequences is not None:
            execution = replace(execution, micro_sequences=self.micro_sequences)
        return replace(execution, host_computes=False) if self.beside else execution

    def __str__(self) -> str:
        said = []
        if self.fits:
            said.append("experts=cpu:fit")
        elif self.host_experts is not None:
            said.append(
                f"experts=cpu{self.host_experts}"
                + (f":keep={self.n_kept}" if self.n_kept else _said(self.expert_share))
                + ":uniform" * (self.uniform and self.keeps)
            )
        if self.streamed_experts is not None:
            said.append(f"experts=stream{self.streamed_experts}{_said(self.expert_share)}")
        if self.zero_copy_experts is not None:
            said.append(f"experts=zerocopy{self.zero_copy_experts}{_said(self.expert_share)}")
        if self.host_layers is not None:
            said.append(f"layers=cpu{self.host_layers}")
        if self.streamed is not None:
            said.append(f"weights=stream{self.streamed}{_said(self.streamed_share)}")
        if self.ahead is not None:
            said.append(f"ahead={self.ahead}")
        if self.zero_copy_weights is not None:
            said.append(f"weights=zerocopy{self.zero_copy_weights}{_said(self.streamed_share)}")
        if self.kv != "device":
            said.append("kv=" + {"host": "cpu"}.get(self.kv, self.kv) + _said(self.kv_share))
        if self.micro_batch is not None:
            said.append(f"ubatch={self.micro_batch}")
        if self.stream_from is not None:
            said.append(f"stream={self.stream_from or 'never'}")
        if self.micro_sequences is not None:
            said.append(f"micro={self.micro_sequences}")
        if self.beside:
            said.append("host=beside")
        if self.expert_groups is not None:
            said.append("experts=whole" + (f":{self.expert_groups}" if self.expert_groups else ""))
        if self.redundant is not None:
            said.append(f"redundant={self.redundant}")
        if self.turns is not None:
            said.append(f"turns={self.turns}")
        if self.copies > 1:
            said.append(f"copies={self.copies}")
        return "@".join(said)


AS_DECIDED = Placement()
"""All in HBM but what a policy moves."""


def _said(share: float) -> str:
    return "" if share == 1 else f":share={share!r}"
