"""`pregate.generate`: a trained model makes tokens under every design, its own gates deciding, measured and predicted.

All designs must make the tokens of the run with every expert resident, bit for bit. What the gates chose becomes a
trace, which replayed in the ordinary way must give the schedule that was executed.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform, load_platform
from hwmodels.specs.overrides import with_overrides
from hwmodels.start_up import miss_costs
from offload.metrics.run_metrics import tpot_s
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.policy import Policy
from offload.timeline import Timeline
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.capturing.starting_host_cache import knows_run, storage_of
from pregate.ask.capturing.tier_names import tier_named
from pregate.ask.timing.captured_metrics import metrics_of
from pregate.extras import require_torch
from pregate.running.devices import Device, make_backend, request_on, resolve
from pregate.running.measured_run import initial_slots
from pregate.trained.generation_result import DesignGeneration, Generation
from pregate.trained.live_prediction import knows_deciding, predicted_live
from traces.errors import InvalidInput, PregateError
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    from runtime.live.offloaded import OffloadedRun
    from runtime.machine.watch import Seen
    from runtime.pregated.corpus.tokens import Tokenizer
    from runtime.pregated.transformer import MoeTransformer


_MOST_TOKENS = 1 << 16
_FIGURES = ("tpot_s", "ttft_s", "tokens_per_s", "stall_share", "hit_rate")


class ReplayMismatch(PregateError):
    """A recorded trace, replayed, gives another schedule than was executed, or designs chose other experts."""


def generate(
    model: str | Path,
    prompts: Sequence[str] | Path,
    policies: Sequence[str | Policy] = ("gpu_only", "on_demand", "prefetch_all"),
    *,
    new_tokens: int = 32,
    batch: int = 1,
    device: Device = Device(),  # noqa: B008 (frozen)
    hw: str | Platform | None = None,
    expert_tier: str = "dram",
    repeats: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Generation:
    """Have the trained `model`, a file of `pregate.train`, go on after `prompts` under every one of `policies`.

    `prompts`: texts, or a file as `pregate record` takes it. `new_tokens` after each, the likeliest; `batch` prompts at
    a time. `hw`: a machine, best one fitted here, to predict on; its link becomes the device's. A policy that guesses
    by later gates is told what these really say.

    Raises `InvalidFile` for another file, `InvalidInput` for a policy that the model's gates cannot serve,
    `CapacityExceeded`, `OutputMismatch` where designs make different tokens, and `ReplayMismatch`.
    """
    require_torch()
    if repeats < 1 or not 1 <= batch <= 4096 or not 2 <= new_tokens <= _MOST_TOKENS:
        raise InvalidInput(
            f"repeats = {repeats}, batch = {batch}, new tokens = {new_tokens}: at least 1, 1 to 4096, 2 to "
            f"{_MOST_TOKENS:,}"
        )
    if not policies:
        raise InvalidInput("no policies: name at least one, such as gpu_only")
    tier = tier_named(expert_tier)
    if not replace(tier.reads, filed=False).is_whole:
        raise InvalidInput(
            f"expert tier {expert_tier!r}: a run reads experts whole: leave read=, align=, depth= and mapped out"
        )
    if tier.cache is not None and knows_run(tier.cache):
        raise InvalidInput(
            f"expert tier {expert_tier!r}: cache {tier.cache.eviction} knows what will be asked of host memory, which "
            f"gates that run have not said yet: take lru, lfu, fifo, lifo or random, without warm"
        )
    named = [policy_named(one) if isinstance(one, str) else one for one in policies]
    from runtime.live.offloaded import check_policy
    from runtime.pregated.model_file import load_trained

    trained, tokenizer = load_trained(Path(model))
    for policy in named:
        check_policy(policy, trained.architecture, trained.lookahead)
    device = resolve(device)
    machine = _machine(hw, device)
    named = [_on_machine(policy, trained.architecture, machine) for policy in named]
    session = _Session(trained, tokenizer, prompts, new_tokens, batch, device, expert_tier)
    say("the model with all experts resident")
    session.refer()
    ran = [_Ran(session.asked(policy)) for policy in named]
    for i in range(repeats):  # in turn, so that a machine that changes its pace changes it for every design
        for one in ran:
            say(f"running {one.asked.policy.name}" + (f", {i + 1} of {repeats}" if repeats > 1 else ""))
            session.run(one)
    designs = [session.figures_of(one, machine) for one in ran]
    if machine is not None and device.backend == "cpu":
        designs = _at_pace(designs, ran, machine)
    return Generation(
        trained.architecture.name, trained.lookahead, session.texts(), session.tokens(), session.trace, tuple(designs),
        None if machine is None else machine.hardware,
    )  # fmt: skip


def _machine(hw: str | Platform | None, device: Device) -> Platform | None:
    """The machine to predict on, with the link that the device imitates."""
    if hw is None:
        return None
    found = hw if isinstance(hw, Platform) else load_platform(hw)
    paced = {"h2d": device.h2d.bytes_per_s, "d2h": device.d2h.bytes_per_s}
    figures: dict[str, float | str] = {
        f"link.{name}_bytes_per_s": speed for name, speed in paced.items() if speed is not None
    }
    return dataclasses.replace(found, machine=with_overrides(found.machine, figures)) if figures else found


def _on_machine(policy: Policy, model: ModelArchitecture, machine: Platform | None) -> Policy:
    """A policy that weighs the host against the link knows the machine; any other stays as it is."""
    if not policy.asks_machine:
        return policy
    if machine is None:
        raise InvalidInput(
            f"{policy.name} weighs the host against the link: give a fit of this machine (--fit, hw=), or state the "
            f"time of an expert on the host over that of its copy (on_demand:cheaper=0.5)"
        )
    return policy.on_machine(miss_costs(model, machine))


@dataclass(slots=True)
class _Ran:
    """A design, its runs, what the machine did meanwhile, and the time a token of each."""

    asked: Request
    runs: list[OffloadedRun] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)


def _at_pace(designs: Sequence[DesignGeneration], ran: Sequence[_Ran], machine: Platform) -> list[DesignGeneration]:
    """Each design predicted again at the pace that gpu_only's runs of the same turns had, where that is among them.

    All of a resident run is a processor's time, so measured over predicted it is the pace.
    """
    at = next((i for i, one in enumerate(ran) if one.asked.policy.name == "gpu_only"), None)
    if at is None or not knows_deciding(machine) or not designs[at].predicted_tpot_s:
        return list(designs)
    found = []
    for i, (one, its) in enumerate(zip(designs, ran, strict=True)):
        if i == at:
            found.append(one)
            continue
        paced = []
        for turn in sorted({*_counting(its)} & {*_counting(ran[at])}) or range(len(its.seen)):
            pace, run = ran[at].tpot_s[turn] / (designs[at].predicted_tpot_s or 1.0), its.runs[turn]
            again = predicted_live(run.measured.timeline, run.asked, machine, pace)
            paced.append(one.tpot_s / its.tpot_s[turn] * tpot_s(again, run.trace)["mean"])
        found.append(replace(one, paced_tpot_s=float(np.median(paced))))
    return found


def _counting(ran: _Ran) -> list[int]:
    from runtime.machine.watch import counting

    return counting(ran.seen)


class _Session:
    """One model and its prompts, run again and again."""

    def __init__(
        self, trained: MoeTransformer, tokenizer: Tokenizer, prompts: Sequence[str] | Path, new_tokens: int, batch: int,
        device: Device, tier: str,
    ) -> None:  # fmt: skip
        from runtime.live.prompts import unrouted
        from runtime.live.trained_weights import TrainedWeights
        from runtime.machine.watch import Clock
        from runtime.model.weights import Experts

        self._clock = Clock()
        self._model, self._lookahead, self._tokenizer = trained.architecture, trained.lookahead, tokenizer
        self._device, self._tier = device, tier
        self._prompts = _read(prompts, tokenizer, self._model.vocab_size)
        self._unrouted = partial(unrouted, self._model, self._prompts, new_tokens, batch)
        allocate = make_backend(device).allocate_host
        self._experts = Experts(self._model, 0, allocate, keep_static=True, weights=TrainedWeights(trained))

    def refer(self) -> None:
        """Run with all experts resident: the tokens and the routing that every design must come to."""
        from runtime.live.prompts import placeholder

        asked, _ = request_on(self._device, self._model, placeholder(self._model, self._unrouted()), "gpu_only")
        self._reference = self._run(asked, None)
        self.trace = self._reference.trace

    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """What was made after each prompt."""
        return tuple(tuple(one) for one in self._reference.tokens.tolist())

    def texts(self) -> tuple[str, ...]:
        """The same as text."""
        return tuple(self._tokenizer.decode(np.array(one)) for one in self.tokens())

    def asked(self, policy: Policy) -> Request:
        """What a design is asked for: the tokens of the reference, their routing known to who foresees."""
        return request_on(self._device, self._model, self.trace, policy, expert_tier=self._tier)[0]

    def run(self, ran: _Ran) -> None:
        """Run a design once more, watching the machine."""
        from runtime.machine.watch import LoadWatch

        gc.collect()
        with LoadWatch(self._clock) as watch:
            ran.runs.append(self._run(ran.asked, self.trace, prove=not ran.runs))
        ran.seen.append(watch.seen)

    def figures_of(self, ran: _Ran, machine: Platform | None) -> DesignGeneration:
        """What the runs of a design came to, and what is predicted. Raises `OutputMismatch`, `ReplayMismatch`."""
        from runtime.machine.watch import counting

        asked, runs, seen, policy = ran.asked, ran.runs, ran.seen, ran.asked.policy
        captured = self._replayed(asked, runs)
        ran.tpot_s = [tpot_s(one.measured.timeline, one.trace)["mean"] for one in runs]
        counted = [runs[i] for i in counting(seen)]
        middle = sorted(counted, key=lambda one: one.measured.timeline.makespan_s)[(len(counted) - 1) // 2]
        figures = [_figures(captured, one.measured.timeline, one.asked) for one in counted]
        median = {name: float(np.median([one[name] for one in figures])) for name in figures[0]}
        predicted = {}
        if machine is not None:
            again = predicted_live(middle.measured.timeline, middle.asked, machine)
            predicted = _figures(captured, again, middle.asked)
        return DesignGeneration(
            policy=policy.name, **median, h2d_bytes=int(runs[0].measured.moved_bytes[Lane.H2D]),
            recall=_recall(runs[0]), predicted_tpot_s=predicted.get("tpot_s"),
            predicted_ttft_s=predicted.get("ttft_s"), predicted_stall_share=predicted.get("stall_share"),
            predicted_ids_wait_share=predicted.get("ids_wait_share"),
            schedule_digest=runs[0].schedule.digest, output_digest=runs[0].measured.digest,
            n_changed=runs[0].n_changed, tokens_alike=float((runs[0].tokens == self._reference.tokens).mean()),
            n_runs=len(counted),
            n_disturbed=sum(one.disturbance() is not None for one in seen), timeline=middle.measured.timeline,
        )  # fmt: skip

    def _replayed(self, asked: Request, runs: Sequence[OffloadedRun]) -> Captured:
        """The schedule of the recorded trace. Raises where it, the tokens or the routing are not those of the runs."""
        from runtime.live.offloaded import GivenGuesses
        from runtime.run import OutputMismatch, check_same_output

        name, first, policy = asked.policy.name, runs[0], asked.policy
        model, said = (first, "its first run") if first.n_changed else (self._reference, "all experts resident")
        check_same_output({said: model.measured, **{f"{name}, run {i}": one.measured for i, one in enumerate(runs, 1)}})
        if any(not np.array_equal(one.tokens, model.tokens) for one in runs):
            raise OutputMismatch(f"{name} makes other tokens than the model with {said}")
        if any(one.trace.digest != model.trace.digest for one in runs):
            raise ReplayMismatch(f"{name}: gates chose other experts than with {said}")
        if first.n_changed and policy.cache is not None and (policy.cache.warm or policy.cache.holds_popular):
            raise InvalidInput(
                f"policy {name} executes other experts than gates chose, from a cache that knows the request: let it "
                f"start cold"
            )
        if first.guesses:
            policy = replace(policy, predictor=GivenGuesses(first.guesses))
        captured = capture_request(replace(asked, trace=first.trace, policy=policy))
        digests = {captured.decoded.schedule.digest, *(one.schedule.digest for one in runs)}
        if len(digests) > 1:
            raise ReplayMismatch(
                f"{name}: the trace replayed gives schedule {captured.decoded.schedule.digest}, "
                f"{first.schedule.digest} was executed"
            )
        return captured

    def _run(self, asked: Request, known: RoutingTrace | None, *, prove: bool = True) -> OffloadedRun:
        from runtime.live.offloaded import Granted, generate_offloaded

        initial = initial_slots(asked)
        n_slots = max([asked.plan.n_slots, *(slot + 1 for slot in initial)])
        settings = Granted(
            asked.policy, asked.execution, asked.plan.n_buffers, n_slots, asked.plan.static_bytes, asked.placed,
            initial, resident_set(asked), self._device.storage, storage_of(asked), asked.plan.low,
        )  # fmt: skip
        return generate_offloaded(
            make_backend(self._device), self._model, self._unrouted(), self._lookahead, settings, self._experts, known,
            prove=prove,
        )  # fmt: skip


def _read(prompts: Sequence[str] | Path, tokenizer: Tokenizer, vocab_size: int) -> list[NDArray[np.int64]]:
    if isinstance(prompts, Path):
        from runtime.recording.prompts import read_prompts

        found = read_prompts(prompts, lambda text: [int(one) for one in tokenizer.encode(text)], vocab_size)
        return [np.array(ids, dtype=np.int64) for ids in found.ids]
    return [tokenizer.encode(text) for text in prompts]


def _figures(captured: Captured, timeline: Timeline, asked: Mapping[int, int]) -> dict[str, float]:
    """The figures of a run, virtual or real."""
    found = metrics_of(captured, timeline)
    return {name: float(found[name]) for name in _FIGURES} | {
        "ids_wait_share": ids_wait_s(timeline, asked) / found["makespan_s"]
    }


def ids_wait_s(timeline: Timeline, asked: Mapping[int, int]) -> float:
    """Time in which nothing computed and the host had not read ids that an op issued after it waited for.

    `asked`: ops that the host decided on once a gate had ended, with no op that reads it back: what it read until such
    an op starts.
    """
    schedule = timeline.schedule
    read = np.zeros(len(schedule), dtype=np.bool_)
    for op in np.flatnonzero(schedule.kind == OpKind.WAIT).tolist():
        read[op] = bool(np.any(schedule.kind[schedule.deps(op)] == OpKind.READBACK))
    known_s = np.where(read, timeline.end_s, 0.0)
    known_s[list(asked)] = timeline.start_s[list(asked)]
    known_s = np.maximum.accumulate(known_s)
    computing = np.flatnonzero(schedule.lane == Lane.COMPUTE)
    start_s, end_s, known_s = timeline.start_s[computing], timeline.end_s[computing], known_s[computing]
    idle_s = np.minimum(start_s[1:], known_s[1:]) - end_s[:-1]
    return float(np.maximum(idle_s, 0.0).sum())


def _recall(run: OffloadedRun) -> float | None:
    """Of the experts that gates chose, those that later gates had named before; None where nothing was guessed."""
    if not run.guesses:
        return None
    steps: Mapping[int, Any] = {step.i_step: step for step in run.trace.steps() if step.phase == Phase.DECODE}
    right = total = 0
    for (i_step, layer), said in run.guesses.items():
        if i_step in steps:
            chosen = steps[i_step].experts[:, layer]
            right += int((chosen[:, :, None] == said[:, None, :]).any(2).sum())
            total += chosen.size
    return right / total if total else None
