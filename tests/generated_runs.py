"""Runs of trained models whose own gates choose, beside the resident run that each has to agree with (PyTorch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from offload.execution import EXECUTIONS
from offload.policy import Policy
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.machine_memory import MachineMemory
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.capturing.starting_host_cache import storage_of
from pregate.running.measured_run import initial_slots
from runtime.backends.backend import Backend
from runtime.backends.cpu import CpuBackend
from runtime.live.offloaded import GivenGuesses, Granted, OffloadedRun, generate_offloaded
from runtime.live.prompts import placeholder, unrouted
from runtime.live.trained_weights import TrainedWeights
from runtime.model.weights import Experts
from runtime.pregated.transformer import MoeTransformer
from runtime.run import check_same_output
from tests.pregated_models import seeded_model
from traces.model.architecture import ModelArchitecture

MEMORY = MachineMemory(1 << 30, 0, 1 << 40, "a test", EXECUTIONS["streams"])
PROMPTS = [np.array([7, 100, 3, 280, 41, 9]), np.array([12, 12, 5]), np.array([200, 31, 8, 77])]
N_NEW = 4


class Generated:
    """One model's runs."""

    def __init__(self, model: MoeTransformer, batch: int = 1, make: Callable[[], Backend] = CpuBackend) -> None:
        self.model, self.batch, self.make = model, batch, make
        self.experts = Experts(model.architecture, allocate=make().allocate_host, weights=TrainedWeights(model))
        unknown = unrouted(self.architecture, PROMPTS, N_NEW, batch)
        self.resident = self.run(
            request(self.architecture, MEMORY, placeholder(self.architecture, unknown), "gpu_only")
        )

    @property
    def architecture(self) -> ModelArchitecture:
        return self.model.architecture

    def asked(self, policy: str | Policy, tier: str = "dram") -> Request:
        return request(self.architecture, MEMORY, self.resident.trace, policy, expert_tier=tier)

    def run(self, asked: Request, storage: Path | None = None) -> OffloadedRun:
        initial = initial_slots(asked)
        settings = Granted(
            asked.policy, asked.execution, asked.plan.n_buffers,
            max([asked.plan.n_slots, *(slot + 1 for slot in initial)]), asked.plan.static_bytes, asked.placed, initial,
            resident_set(asked), storage, storage_of(asked), asked.plan.low,
        )  # fmt: skip
        known = None if asked.policy.name == "gpu_only" else self.resident.trace
        return generate_offloaded(
            self.make(), self.architecture, unrouted(self.architecture, PROMPTS, N_NEW, self.batch),
            self.model.lookahead, settings, self.experts, known,
        )  # fmt: skip

    def agrees(self, asked: Request, storage: Path | None = None) -> OffloadedRun:
        """A run that makes the resident run's tokens and states, and whose trace replayed gives its schedule."""
        found = self.run(asked, storage)
        assert np.array_equal(found.tokens, self.resident.tokens)
        assert found.trace.digest == self.resident.trace.digest
        check_same_output({"resident": self.resident.measured, asked.policy.name: found.measured})
        policy = asked.policy
        if found.guesses:
            policy = replace(policy, predictor=GivenGuesses(found.guesses))
        replayed = capture_request(replace(asked, trace=found.trace, policy=policy)).decoded
        assert replayed.schedule.digest == found.schedule.digest
        return found


@cache
def generated(seed: int, lookahead: int = 0, *, encoded: bool = False, top_k: int = 1, batch: int = 1) -> Generated:
    """The runs of a seeded model, its resident run made once."""
    return Generated(seeded_model(seed, lookahead, encoded=encoded, top_k=top_k), batch)
