"""Flags of several cards in a row: those that share every layer, that have whole experts, that take layers in turn.

Under vLLM and SGLang `-tp 4 -pp 2 --enable-expert-parallel` is eight cards and `turns=2@experts=whole`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hwmodels.quantity import ReadOnly
from pregate.engines.flag_table import EngineFlags
from traces.errors import InvalidInput

SHARING_MODES: Mapping[str, str] = ReadOnly({"llama-cpp": "tensor", "ik-llama": "graph"})
"""What `-sm` says of cards that share every layer, by engine."""

N_CARDS = "accelerator.n_cards"
"""Cards of a row, under an engine whose cards share layers."""

_IN_ONE_BATCH = "all sequences of a step pass the cards together: batches that pass at the same time are not predicted"
_EXCHANGED = "tokens that are exchanged between cards are predicted as sums over all of them"
_COPIED = "sequences are spread evenly over copies of attention; what these exchange takes half a sum each way"
_TOGETHER = ("sharing_cards", "stages", "expert_groups", "copies", "copies_here", "redundant")


@dataclass(slots=True)
class CardsSaid:
    """What flags say of cards. `sharing_mode`: by which word they share every layer, in an engine whose cards take
    turns otherwise, of `n_stated` cards of the row. `copies` of attention, which share the experts; `within`: the cards
    that share them are counted with those that share layers (SGLang). `expert_groups`: groups of cards with whole
    experts, 0 each card; None: none; `redundant`: replicas of these, evened over the groups; None: in order.
    """

    n_sharing: int | None = None
    turns: int = 1
    copies: int = 1
    within: bool = False
    sharing_mode: str = ""
    expert_groups: int | None = None
    redundant: int | None = None
    notes: list[str] = field(default_factory=list)
    n_stated: int = 1
    n_here: int | None = None

    def take(self, what: str, flag: str, value: str, count: Callable[[str, str], int]) -> None:
        """One flag. Raises `InvalidInput` for what cannot be said."""
        n = count(flag, value) if what in (*_TOGETHER, "cards") else 0
        match what:
            case "sharing_cards":
                self.n_sharing = n
            case "stages" if n > 1:
                self.turns = n
                self.notes.append(f"{flag}: {_IN_ONE_BATCH}")
            case "copies" if n > 1:
                self.copies = n
                self.notes.append(f"{flag}: {_COPIED}")
            case "copies_here":
                self.n_here = n
            case "copies_within":
                self.within = True
            case "whole_experts":
                self.expert_groups = 0
            case "exchange" if value != "none":
                self.expert_groups = 0
                self.notes.append(f"{flag}: {_EXCHANGED}")
            case "expert_groups" if n > 1 and self.expert_groups is None:
                self.expert_groups = n
            case "evened":
                self.redundant = self.redundant or 0
            case "evening":
                said = re.search(r"num_redundant_experts\W+(\d{1,4})\b", value, re.ASCII)
                self.redundant = int(said[1]) if said else self.redundant or 0
            case "redundant":
                self.redundant = n
            case "split" if value in SHARING_MODES.values():
                self.sharing_mode = value
            case "split" if value not in ("layer", "none"):
                raise InvalidInput(
                    f"policy: {flag} {value[:20]}: cards that share dense matrices by rows cannot be said: give a "
                    f"reason"
                )
            case "cards" if n > 1:
                raise InvalidInput(
                    f"policy: {flag} {value[:20]}: of cards together those that share every layer (-tp), with whole "
                    f"experts each or not, and those with whole layers can be said"
                )

    def n_cards(self, engine: EngineFlags, numbers: Mapping[str, str]) -> int:
        """All cards: as the flags say, or as many as the row has in `numbers`, where cards of its engine share layers.

        Raises `InvalidInput` where flags and row differ.
        """
        stated = numbers.get(N_CARDS, "")
        there = int(stated) if re.fullmatch(r"\d{1,3}", stated, re.ASCII) else None
        self.n_stated = there or 1
        own = SHARING_MODES.get(engine.engine, "")
        if self.sharing_mode not in ("", own):
            raise InvalidInput(f"policy: -sm {self.sharing_mode}: {engine.engine} calls cards that share layers {own}")
        if not any(flag.says == "sharing_cards" for flag in engine.read.values()):
            there = None
        if self.copies > 1 and engine.engine == "sglang" and not self.within:
            raise InvalidInput(
                f"policy: {self.copies} copies of the whole model cannot be said (those of --enable-dp-attention share "
                f"the experts): ask for one, with its share of the requests"
            )
        if self.n_here not in (None, self.copies):
            raise InvalidInput(
                f"policy: {self.n_here} of {self.copies} copies of attention on this host: cards of several hosts "
                f"cannot be said, give the row a reason"
            )
        more = self.turns * (1 if self.within else self.copies)
        said = None if self.n_sharing is None and more == 1 else (self.n_sharing or 1) * more
        n_cards = said or there or 1
        if there is not None and n_cards != there:
            raise InvalidInput(f"policy: flags are of {n_cards} cards together, the row has {there}")
        return n_cards

    def clauses(self, n_cards: int, others: list[str]) -> dict[str, str]:
        """What a placement says of so many cards. Raises `InvalidInput` where `others` have weights on the host."""
        n_groups = self.expert_groups
        found = {"turns": str(self.turns)} if self.turns > 1 or (self.sharing_mode and self.n_stated > 1) else {}
        if self.copies > 1 and n_cards > 1:
            found["copies"] = str(self.copies)
        if n_groups is not None and n_cards > self.turns:
            found["experts"] = "whole" if n_groups in (0, n_cards // self.turns) else f"whole:{n_groups}"
            if self.redundant is not None:
                found["redundant"] = str(self.redundant)
        if (
            not self.sharing_mode
            and found
            and any(clause.startswith(("experts=", "weights=", "layers=")) for clause in others)
        ):
            raise InvalidInput(
                "policy: of cards with whole experts or layers each all weights stay in HBM here: give the row a reason"
            )
        return found
