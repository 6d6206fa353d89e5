"""What `compare`, `simulate`, `explain` and `crossover` are asked about, and its options, declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

from offload.policies import policy_named
from pregate.cli import options
from pregate.cli.assumption_lines import say_scale_of_fp8, say_weights
from pregate.cli.option_groups import Command, given_as, options_of
from pregate.cli.option_values import as_recorded, build_cache, build_machine, build_model, build_trace
from pregate.cli.trained_context import longest_of, say_beyond_context
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from hwmodels.platform import Platform
    from offload.policy import Cache, Policy
    from traces.model.architecture import ModelArchitecture
    from traces.routing import RoutingTrace


ENGINES = ("engine", "check", "modes")
"""Options of those commands only that run an engine of the user's choice."""


@dataclass(frozen=True, slots=True)
class Question:
    """A model, a machine, a workload and what is common to all designs on them, as options state them."""

    model: options.Model
    hardware: options.Hardware
    trace: options.TraceFile = None
    batch: options.BatchOrMax = None
    input_tokens: options.InputTokens = 256
    output_tokens: options.OutputTokens = 256
    active: options.Active = None
    popularity: options.Popularity = None
    cache: options.CacheText = None
    placement: options.PlacementText = None
    speculative: options.Speculative = None
    tier: options.Tier = "dram"
    engine: options.Engine = "auto"
    check: options.Check = False
    yes: options.Yes = False
    modes: options.ModesText = None
    hbm: options.Hbm = None
    sets: options.Sets = None
    stack: options.Stack = None
    dtype: options.Dtype = None
    formats: options.Formats = None
    top_k: options.TopK = None
    seed: options.Seed = 0
    format: options.OutputFormat = options.Format.table

    def architecture(self) -> ModelArchitecture:
        """The model as it is published, or in the format asked for."""
        return build_model(self.model, self.dtype, self.top_k, self.formats)

    def machine(self) -> Platform:
        """The machine."""
        from pregate.cli.speculative import with_draft_time

        return build_machine(self.hardware, self.stack, self.hbm, with_draft_time(self.sets, self.speculative))

    def design(self, text: str) -> str:
        """The name of the design that a user typed, the model placed as the options say."""
        from offload.placing.placement_clauses import placement_named

        placement = None if self.placement is None else placement_named(self.placement)
        return policy_named(text).with_placement(placement).name

    def drafting(self, text: str) -> str:
        """The name of the design that a user typed, placed and drafting as the options say."""
        from pregate.cli.speculative import drafting_of

        drafting = drafting_of(self.speculative)
        policy = policy_named(self.design(text))
        return policy.with_speculation(None if drafting is None else drafting.speculation).name

    def several(self, texts: Sequence[str]) -> list[str]:
        """The names of several designs, each as it is and as it drafts, where the options say how."""
        from pregate.ask.speculative import with_and_without
        from pregate.cli.speculative import drafting_of

        return with_and_without([self.design(text) for text in texts], drafting_of(self.speculative))

    def usual(
        self, usual: str, model: ModelArchitecture, machine: Platform, trace: RoutingTrace, *, takes_one: bool = False
    ) -> list[str]:
        """The names of the designs where none is named: `usual`, or those that an engine runs where no option
        `asks_about_offloading`. `takes_one`: a command of one.
        """
        from pregate.cli.usual_designs import along_axes, asks_about_offloading, of_trace

        if asks_about_offloading(self.cache, self.tier, placement=self.placement):
            return usual.split(",")
        if self.fills_memory:
            return along_axes(usual, model, [machine.stack.name], takes_one=takes_one)
        return of_trace(usual, model, machine, trace, takes_one=takes_one)

    def one_design(self, policy: str | None, model: ModelArchitecture, machine: Platform, trace: RoutingTrace) -> str:
        """The name of the design of `--policy`, placed and drafting as the options say; None: the first of `usual`."""
        if policy is None:
            policy = self.usual("pregate", model, machine, trace, takes_one=True)[0]
        return self.drafting(policy)

    def subject(self) -> tuple[ModelArchitecture, Platform, RoutingTrace]:
        """Model, machine and trace; experts are of the size that the trace recorded. With `--batch max` the trace is
        as short as can be, and `trace_of` gives a design the one that fills its memory.

        Raises `InvalidInput` for what does not go together, or a workload of many minutes without `--yes`.
        """
        model, machine = self.architecture(), self.machine()
        trace = build_trace(
            model, self.trace, batch=self._least(model) if self.fills_memory else self.n_sequences,
            input_tokens=self.input_tokens, output_tokens=self.output_tokens,
            active=self.active, seed=self.seed, popularity=self.popularity, yes=self.yes,
        )  # fmt: skip
        say_scale_of_fp8((self.formats, self.dtype), [machine])
        say_weights(model, [machine])
        say_beyond_context(model, longest_of(trace))
        return as_recorded(model, trace, self.model, self.dtype, self.formats), machine, trace

    @property
    def fills_memory(self) -> bool:
        """Whether each design runs the largest batch that it has memory for."""
        return self.batch == "max"

    @property
    def n_sequences(self) -> int | None:
        """The batch as a number, None where none is given or it is solved for."""
        return None if self.batch is None or self.fills_memory else int(self.batch)

    def _least(self, model: ModelArchitecture) -> int | None:
        """The fewest sequences of a trace, None of a recording: as it was recorded."""
        from pregate.ask.largest_batch import fewest_sequences

        return None if self.trace is not None else fewest_sequences(model, self.active)

    def trace_of(
        self, policy: Policy, model: ModelArchitecture, machine: Platform, trace: RoutingTrace, cache: Cache | None
    ) -> RoutingTrace:
        """The trace that a design runs: with `--batch max` of as many sequences as it has memory for.

        Raises `CapacityExceeded` where none fits, `InvalidInput` for a workload of many minutes without `--yes`.
        """
        if not self.fills_memory:
            return trace
        from pregate.ask.largest_batch import fewest_sequences, largest_batch
        from traces.transforms.rebatching import rebatch

        if self.trace is not None:
            return rebatch(trace, largest_batch(model, machine, policy, trace, cache=cache, expert_tier=self.tier))

        def made(n: int, yes: bool = True) -> RoutingTrace:
            return build_trace(
                model, None, batch=n, input_tokens=self.input_tokens, output_tokens=self.output_tokens,
                active=self.active, seed=self.seed, popularity=self.popularity, yes=yes,
            )  # fmt: skip

        least = fewest_sequences(model, self.active)
        n = largest_batch(model, machine, policy, made, cache=cache, expert_tier=self.tier, least=least)
        return made(n, self.yes)

    def designs(self, names: Sequence[str], model: ModelArchitecture) -> tuple[list[Policy], Cache | None]:
        """The policies called `names`, and the cache to add to them; static ones hold what `--popularity` counted.

        Raises `InvalidInput` for counts that nothing looks at: a recorded trace, and no static cache.
        """
        return placed_by_counts(names, self.cache, self.popularity, model, synthetic=self.trace is None)


def placed_by_counts(
    names: Sequence[str], cache_text: str | None, counts: Path | None, model: ModelArchitecture, *, synthetic: bool
) -> tuple[list[Policy], Cache | None]:
    """Policies and the cache to add to them; what is kept all along, a file of counts decides.

    Raises `InvalidInput` for counts that nothing looks at: no static cache, and no synthetic trace that they skew.
    """
    policies, cache = [policy_named(name) for name in names], build_cache(cache_text)
    if counts is None:
        return policies, cache
    from pregate.routing_traces import load_popularity

    counted = load_popularity(counts, model=model)
    placed = [policy.placed(counted) for policy in policies], None if cache is None else cache.placed(counted)
    if not synthetic and placed == (policies, cache):
        raise InvalidInput(
            "--popularity says what a static cache holds, and none is asked for: add one, such as "
            "on_demand+static:0.1 or experts=cpu:keep=4, or leave out --popularity or --trace"
        )
    return placed


def asks(*without: str) -> Callable[[Command], Command]:
    """A command whose keyword `question` is given as options: those of a `Question`, but the ones `without`.

    Model and machine come first, the trace where the command declares `question`, the others last.
    """
    shared = options_of(Question, without)

    def expanded(command: Command) -> Command:
        own = list(signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in own].index("question")
        first, last = [shared["model"], shared["hardware"]], list(shared.values())[3:]
        order = [*first, *own[:place], shared["trace"], *own[place + 1 :], *last]
        return given_as(command, "question", Question, shared, order)

    return expanded
