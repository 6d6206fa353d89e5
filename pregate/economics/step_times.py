"""What passes of a design take, by their size: schedules of a few prompts and batches, and lines between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from hwmodels.stacks.usual_passes import has_none_within
from offload.execution import Execution
from offload.metrics.run_metrics import tpot_s, ttft_s
from offload.placing.workload import Workload, measure_workload
from offload.policy import Policy
from offload.timeline import Timeline
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.request import Request, request
from pregate.ask.decode_middle import DECODED, middle_of_decode, tokens_timed
from pregate.ask.simulation import SimulationResult, interpret
from pregate.ask.timing.stages import stage_shares
from pregate.ask.timing.time_errors import TimeError, time_error
from pregate.card.job import RequestLoad, Workpiece, largest_workload
from pregate.economics.serving import use_of
from pregate.routing_traces import synthesize
from simulator.recurrence import simulate
from simulator.serving.arrivals import StepTimes
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.requests import ArrivalTrace
from traces.routing import RoutingTrace, Step
from traces.statistics.popularity import PopularityProfile, popularity_of, shared_popularity
from traces.synthesis.dials import Dials

_PROMPTS = 5
"""Lengths of prompts that are simulated, apart by equal factors."""

_MOST_JUMPS = 8
"""Ends of smaller passes within a pass that are simulated."""

_PARTS = 10
"""The same of parts of prompts, which may be short; the shortest and the longest prompt are beside them."""


@dataclass(frozen=True, slots=True)
class PassTime:
    """Seconds of a pass, how far they may be off, the shares of it in which the compute lane and the host's processor
    are busy, and bytes that cross the link to the device.
    """

    seconds: float
    error: TimeError
    compute_share: float
    host_share: float
    link_bytes: float


@dataclass(frozen=True, slots=True, eq=False)
class PassTimes:
    """Of a design with memory for `slots` requests. `prompts`: of passes of `prompt_tokens`; `after`: of the same with
    `n_before` tokens of the prompt before them, none where no prompt is passed in parts; `tokens`: of a token of
    `batches` requests, each at two contexts, `contexts`; `results`: of their schedules. `n_at_once`: cards that compute
    at the same time. `schedule_s`: what a pass waits that was not decided on while another ran. `apart` as of
    `PassTraces` as `pass_tokens`, `stage_shares` as of `StepTimes`. `peak_hbm_bytes`: the most that any of them takes;
    `beside_s`, (n_prompts,): seconds of `prompts` with a token of `slots` other requests, where these share a pass.
    """

    design: str
    slots: int
    prompt_tokens: tuple[int, ...]
    prompts: tuple[PassTime, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, int]
    tokens: tuple[tuple[PassTime, PassTime], ...]
    results: tuple[SimulationResult, ...]
    n_at_once: int = 1
    after: tuple[PassTime, ...] = ()
    n_before: int = 1
    schedule_s: float = 0.0
    apart: NDArray[np.float64] | None = None
    stage_shares: NDArray[np.float64] | None = None
    peak_hbm_bytes: int = 0
    beside_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    pass_tokens: int = 0

    @property
    def n_stages(self) -> int:
        """Passes that are under way at the same time at most."""
        return 1 if self.stage_shares is None else self.stage_shares.shape[1]

    def drawn(self, normal: Callable[[str], NDArray[np.float64]]) -> list[StepTimes]:
        """The times in every draw of `normal` (`TimeError.drawn`), the first of them without an error."""
        prompts, after = (
            np.array([one.seconds * one.error.drawn(normal, f"{self.design}, prompts") for one in each])
            for each in (self.prompts, self.after or self.prompts)
        )
        tokens = np.array([
            [one.seconds * one.error.drawn(normal, f"{self.design}, tokens") for one in pair] for pair in self.tokens
        ])  # fmt: skip
        before = np.maximum(after - prompts, 0.0) / self.n_before
        return [self._steps(prompts[:, draw], before[:, draw], tokens[:, :, draw]) for draw in range(prompts.shape[1])]

    @property
    def as_predicted(self) -> StepTimes:
        """The times without an error."""
        prompts, after = (
            np.array([one.seconds for one in each]) for each in (self.prompts, self.after or self.prompts)
        )
        tokens = np.array([[one.seconds for one in pair] for pair in self.tokens])
        return self._steps(prompts, np.maximum(after - prompts, 0.0) / self.n_before, tokens)

    def _steps(
        self, prompt_s: NDArray[np.float64], before_s: NDArray[np.float64], token_s: NDArray[np.float64]
    ) -> StepTimes:
        """`prompt_s` and `before_s` (n_prompts,), `token_s` (n_batches, 2), by batch a line over the context, none that
        falls.
        """
        short, long = self.contexts
        slopes = np.maximum(token_s[:, 1] - token_s[:, 0], 0.0) / (long - short)
        at_none = np.maximum(token_s[:, 0] - slopes * short, token_s[:, 0] / 100)
        each = np.arange(self.slots + 1)
        lengths = np.array(self.prompt_tokens, dtype=np.float64)
        beside_s = None
        if self.apart is not None:  # tokens ask for more experts than as many of one prompt do, which it may have read
            scale = prompt_s / np.array([one.seconds for one in self.prompts])
            full = self.beside_s * scale - np.interp(lengths + self.slots, lengths, prompt_s)
            more = np.maximum(full, 0.0) * self.apart
            beside_s = np.stack([np.interp(each, (0, *self.batches), (0.0, *of)) for of in more.T], axis=1)
        return StepTimes(
            lengths,
            np.maximum.accumulate(prompt_s),
            np.interp(each, self.batches, at_none),
            np.interp(each, self.batches, slopes),
            np.ascontiguousarray(before_s),
            self.schedule_s,
            beside_s,
            self.stage_shares,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PassTraces:
    """What passes of a model are simulated, whatever the design. `prompts`: of `prompt_tokens`; `after`: the same with
    `n_before` tokens before them, where prompts are passed in parts or begin with what is held; `tokens`: of each of
    `batches` at a short and a long context, `contexts`; `warmed`: the same after a part of a prompt; `whole`: what
    memory must hold beside the weights. `beside`: `prompts` with a token of `slots` other requests, where these share
    a pass; `apart`, (n_batches, n_prompts): of the experts that so many add to those of a prompt, beyond what as many
    tokens more of it do, the share that the tokens of a batch add. `pass_tokens`: tokens that pass together at most.
    """

    model: ModelArchitecture
    slots: int
    prompt_tokens: tuple[int, ...]
    prompts: tuple[RoutingTrace, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, int]
    tokens: tuple[tuple[RoutingTrace, RoutingTrace], ...]
    warmed: tuple[tuple[RoutingTrace, RoutingTrace], ...]
    whole: Workload
    after: tuple[RoutingTrace, ...] = ()
    n_before: int = 1
    apart: NDArray[np.float64] | None = None
    beside: tuple[RoutingTrace, ...] = ()
    pass_tokens: int = 0

    def tokens_for(self, policy: Policy) -> tuple[tuple[RoutingTrace, RoutingTrace], ...]:
        """What tokens of a design are timed with."""
        return self.tokens if policy.cache is None else self.warmed

    @property
    def popularity(self) -> PopularityProfile:
        """By which experts are kept in HBM: that of the middle prompt."""
        counted = self.prompts[len(self.prompts) // 2]
        return shared_popularity(counted) or popularity_of(counted)

    def as_work(self) -> Workpiece:
        """The largest passes of each kind, with the memory of all."""
        longest = RequestLoad(self.prompt_tokens[-1])
        tokens, warmed = self.tokens[-1][1], self.warmed[-1][1]
        return Workpiece(longest, self.prompts[-1], tokens, warmed, self.whole, self.popularity)


def pass_traces(
    model: ModelArchitecture, requests: ArrivalTrace, slots: int, pass_tokens: int, seed: int = 0, *,
    mixes: bool = False, held_tokens: int = 0, dials: Dials | None = None, execution: Execution | None = None,
) -> PassTraces:  # fmt: skip
    """Passes of the sizes that `requests` ask for, with memory for `slots` of the longest and for no fewer than
    `held_tokens`, whose requests share it; `mixes`: prompts share passes with tokens of others, in parts. Routing is
    made up by `dials` (`pregate.synthesize`). `execution`: whose passes change at some sizes, where they then are.
    """
    lengths, longest = requests.input_tokens, int((requests.input_tokens + requests.output_tokens).max())
    read, n_before = requests.read_tokens, int(lengths.max())
    most = min(pass_tokens, int(np.sort(read)[-slots:].sum()))
    prompt_tokens = _apart(int(read.min()), max(int(read.max()), most), _PROMPTS)
    if mixes:
        ends = {min(int(n), most) for n in (read.min(), read.max())}
        ends |= {n for n in _jumps(model, execution, most, slots) if n <= most}
        prompt_tokens = tuple(sorted({*_apart(1, most, _PARTS), *ends}))
    short = int(np.quantile(lengths, 0.1))
    contexts = (short, max(int(np.quantile(lengths + requests.output_tokens, 0.9)), short + DECODED))
    batches = tuple(dict.fromkeys((*(2**i for i in range(slots.bit_length())), slots)))
    prompts = tuple(synthesize(model, n, 2, 1, seed, dials=dials) for n in prompt_tokens)
    goes_on = mixes or requests.held.any()
    after = tuple(
        dataclasses.replace(one, position=one.position + np.int32(n_before)) for one in (prompts if goes_on else ())
    )

    def at_both(n: int, *, warmed: bool) -> tuple[RoutingTrace, RoutingTrace]:
        n_timed = tokens_timed(n, warmed=warmed)
        short, long = (middle_of_decode(model, one, n_timed, n, seed, dials=dials, warmed=warmed) for one in contexts)
        return short, long

    tokens, warmed = (tuple(at_both(n, warmed=is_warmed) for n in batches) for is_warmed in (False, True))
    every = [*prompts, *(trace for pair in tokens for trace in pair)]
    whole = largest_workload(*(measure_workload(model, trace.steps()) for trace in every))
    whole = dataclasses.replace(
        whole, n_cached_tokens=max(slots * longest, held_tokens), n_context=longest, n_running=slots
    )  # fmt: skip
    beside: tuple[RoutingTrace, ...] = ()
    apart = None
    if mixes:
        first = synthesize(model, 1, 2, slots + 1, seed, dials=dials)
        beside = tuple(_with_tokens(prompt, first) for prompt in prompts)
        apart = _apart_from(model, prompts, prompt_tokens, [short for short, _ in tokens], batches)
    return PassTraces(
        model,
        slots,
        prompt_tokens,
        prompts,
        batches,
        contexts,
        tokens,
        warmed,
        whole,
        after,
        n_before,
        apart,
        beside,
        pass_tokens,
    )


def pass_times(passes: PassTraces, hw: Platform, policy: Policy, *, alone: bool = False) -> PassTimes:
    """What `passes` take by `policy`; `alone`: seconds, without errors, uses and results. Raises `CapacityExceeded`
    where the longest requests do not fit side by side, and as `simulate`.
    """
    model, prompts, contexts = passes.model, passes.prompts, passes.contexts
    placed = policy.placed(passes.popularity)
    schedule_s = hw.constants.get("schedule_s", 0.0) if hw.execution.schedules_ahead else 0.0

    def timed(trace: RoutingTrace, metric: str, alone: bool = alone) -> _Timed:
        captured = capture_request(request(model, hw, trace, placed, workload=passes.whole))
        if alone:
            schedule = captured.decoded.schedule
            timeline = simulate(schedule, price_figures(schedule.works, figures_of(hw)))
            seconds = ttft_s(timeline) if metric == "ttft_s" else tpot_s(timeline, trace)["mean"]
            if metric == "ttft_s":
                seconds -= schedule_s
            return _Timed(PassTime(seconds, TimeError(), 0.0, 0.0, 0.0), timeline, captured.request)
        result = interpret(captured, hw, "recurrence", with_intervals=False)
        assert result.timeline is not None
        whole_s = float(getattr(result, metric))
        use = use_of(result, 0.0 if metric == "ttft_s" else result.ttft_s)
        seconds = whole_s - schedule_s if metric == "ttft_s" else whole_s  # while the pass before computes
        shares = use.compute_share * whole_s / seconds, use.host_share * whole_s / seconds
        one = PassTime(seconds, time_error(captured, hw, metric), *shares, use.h2d_bytes_per_s * whole_s)
        return _Timed(one, result.timeline, captured.request, result)

    middle = 0 if model.is_encoder_decoder else DECODED // 2 - 1  # the mean of those tokens, where keys are of decoding
    found = [timed(trace, "ttft_s") for trace in prompts]
    after = [timed(trace, "ttft_s").one for trace in passes.after]
    beside_s = np.array([timed(trace, "ttft_s", alone=True).one.seconds for trace in passes.beside])
    rows = [[timed(trace, "tpot_s") for trace in pair] for pair in passes.tokens_for(policy)]
    every = [*found, *(one for pair in rows for one in pair)]
    return PassTimes(
        policy.name, passes.slots, passes.prompt_tokens, tuple(each.one for each in found), passes.batches,
        (contexts[0] + middle, contexts[1] + middle),
        tuple((pair[0].one, pair[1].one) for pair in rows),
        tuple(each.result for each in every if each.result is not None), found[0].request.n_at_once,
        tuple(after), passes.n_before, schedule_s, passes.apart,
        stage_shares(found[-1].request, found[-1].timeline, rows[-1][0].request, rows[-1][0].timeline, schedule_s),
        max(each.timeline.peak_hbm_bytes for each in every), beside_s, passes.pass_tokens,
    )  # fmt: skip


class _Timed(NamedTuple):
    """A pass that was timed, its run, and what is said of it where anything is."""

    one: PassTime
    timeline: Timeline
    request: Request
    result: SimulationResult | None = None


def _jumps(model: ModelArchitecture, execution: Execution | None, most: int, slots: int) -> set[int]:
    """Tokens of passes, up to `most`, on both sides of where one takes another way: where experts of the host begin to
    be streamed, with a token of `slots` requests and without, and where it has a smaller pass within more.
    """
    if execution is None:
        return set()
    each = model.n_experts // max(model.top_k, 1) if execution.stream_per_expert else 1
    streamed = execution.stream_tokens * each - 1
    ends = [streamed, streamed - slots] if execution.stream_tokens else []
    if execution.micro_batch and not has_none_within(execution):
        ends += list(range(execution.micro_batch, most, execution.micro_batch))[:_MOST_JUMPS]
    return {n for end in ends for n in (end, end + 1) if 0 < n <= most}


def _with_tokens(prompt: RoutingTrace, first: RoutingTrace) -> RoutingTrace:
    """A prompt of one sequence with the first tokens of others, but of the first, in the same pass."""
    own = prompt.step == prompt.step[0]
    theirs = (first.step == first.step[0]) & (first.sequence > 0)

    def joined(name: str) -> NDArray[Any]:
        mine = getattr(prompt, name)
        found: NDArray[Any] = np.concatenate([mine[own], getattr(first, name)[theirs], mine[~own]])
        return found

    step = [prompt.step[own], np.full(int(theirs.sum()), prompt.step[0], prompt.step.dtype), prompt.step[~own]]
    return dataclasses.replace(
        prompt, experts=joined("experts"), position=joined("position"), sequence=joined("sequence"),
        phase=joined("phase"), step=np.concatenate(step),
    )  # fmt: skip


def _apart_from(
    model: ModelArchitecture, prompts: Sequence[RoutingTrace], prompt_tokens: Sequence[int],
    tokens: Sequence[RoutingTrace], batches: Sequence[int],
) -> NDArray[np.float64]:  # fmt: skip
    """As of `PassTraces.apart`, by how many experts a layer each of them asks for, and both together."""
    read = [_asked(next(iter(prompt.steps())), model.n_experts) for prompt in prompts]
    of_prompt = np.array([one.mean() for one in read])
    left = np.zeros((len(batches), len(prompts)))
    for i, (batch, trace) in enumerate(zip(batches, tokens, strict=True)):
        steps = [step for step in trace.steps() if step.phase == Phase.DECODE]
        asked = np.stack([_asked(step, model.n_experts) for step in steps])  # [step, layer, expert]
        both = np.array([(asked | one).mean() for one in read])
        left[i] = np.maximum(both - np.interp(np.array(prompt_tokens) + batch, prompt_tokens, of_prompt), 0.0)
    most = left[-1]
    alike = np.array(batches)[:, None] / batches[-1] * np.ones(len(prompts))
    return np.where(most > 0, np.clip(left / np.where(most > 0, most, 1.0), 0.0, 1.0), alike)


def _asked(step: Step, n_experts: int) -> NDArray[np.bool_]:
    """Which experts a pass asks for, (n_layers, n_experts)."""
    n_layers = step.experts.shape[1]
    asked = np.zeros((n_layers, n_experts), np.bool_)
    asked[np.arange(n_layers)[:, None], step.experts.transpose(1, 0, 2).reshape(n_layers, -1)] = True
    return asked


def _apart(low: int, high: int, n: int) -> tuple[int, ...]:
    """At most `n` whole numbers from `low` to `high`, apart by equal factors."""
    return tuple(dict.fromkeys(round(one) for one in np.geomspace(low, high, n).tolist()))
