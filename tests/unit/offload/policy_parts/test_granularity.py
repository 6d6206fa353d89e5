"""What one copy brings, from the command line and by hand: bytes, launches, times, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import load_stack, stack_names
from offload.execution import EXECUTIONS
from offload.ffn_work import experts_work
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.policy_parts.granularity import matrix_bytes, matrix_copies, matrix_works
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import MachineMemory
from pregate.ask.capturing.request import request
from pregate.ask.timing.policy_modes import modes_of
from simulator import recurrence
from simulator.modes import FIFO, Modes
from tests.command_line import Run, runner
from tests.small_models import MODELS, decoder_only, routing
from traces.errors import InvalidInput
from traces.model.architecture import architecture_names

SMALL = ("qwen3-30b-a3b", "--hardware", "rtx-4090", "--input-tokens", "2", "--output-tokens", "3")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def captured(text: str, *, batch: int = 1, name: str = "shared experts, three matrices") -> Captured:
    model = MODELS[name]
    memory = MachineMemory(10**9, 0, 10**12, "host", EXECUTIONS["streams"])
    return capture_request(request(model, memory, routing(model, batch=batch, seed=4, output_tokens=6), text))


@pytest.mark.parametrize("name", architecture_names())
def test_matrices_have_the_bytes_of_an_expert(name: str) -> None:
    model = pregate.load_model(name)
    sizes = matrix_bytes(model)
    assert sum(sizes) == model.expert_bytes
    assert len(sizes) == model.n_expert_matrices
    assert max(sizes) - min(sizes) <= 1 + 4 * (model.d_ff_expert + model.d_model) * model.expert_bias
    assert [work.copy_bytes for work in matrix_copies(model, OpKind.FETCH)] == list(sizes)


@pytest.mark.parametrize("n_matrices", [2, 3])
def test_products_by_matrix_are_those_of_the_expert(n_matrices: int) -> None:
    what = experts_work(decoder_only(n_matrices=n_matrices), [5])
    pieces = matrix_works(what)
    assert len(pieces) == n_matrices
    assert sum(work.total_flop for work in pieces) == what.total_flop
    assert sum(work.weight_bytes for work in pieces) == what.weight_bytes
    for name in stack_names():
        stack = load_stack(name)
        launched = [stack.launches_of(work) for work in pieces]
        assert min(launched) >= 1
        assert sum(launched) == max(stack.launches_of(what), n_matrices)


def test_the_first_product_starts_when_its_matrix_is_there() -> None:
    found = captured("on_demand:granularity=matrix")
    schedule = found.decoded.schedule
    free = dict.fromkeys(("stack.copy_latency_s", "stack.copy_issue_s", "stack.launch_s", "stack.kernel_s"), 1e-12)
    hw = load_platform("rtx-4090", "streams", {**free, "link.h2d_bytes_per_s": 1e6})
    timeline = recurrence.simulate(schedule, price(schedule.works, hw))
    begins = 0
    for op in np.flatnonzero(schedule.kind == OpKind.EXPERTS).tolist():
        piece = schedule.works[schedule.cost[op]].piece
        if piece is None or piece.is_last:
            continue
        (copy,) = (dep for dep in schedule.deps(op).tolist() if schedule.lane[dep] == Lane.H2D)
        last = copy + piece.n - 1 - piece.i
        assert timeline.start_s[op] >= timeline.end_s[copy]
        begins += timeline.end_s[op] < timeline.end_s[last]  # done before the expert is whole
    assert begins > 5
    whole = captured("on_demand").decoded.schedule
    assert timeline.makespan_s < recurrence.simulate(whole, price(whole.works, hw)).makespan_s


def test_each_matrix_pays_for_its_copy_and_its_launch() -> None:
    """On a link without end, what more copies cost is all that is left."""
    hw = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e15})
    times = []
    for text in ("on_demand", "on_demand:granularity=matrix"):
        schedule = captured(text).decoded.schedule
        times.append(recurrence.simulate(schedule, price(schedule.works, hw)).makespan_s)
    n_experts = int((captured("on_demand").decoded.schedule.kind == OpKind.FETCH).sum())
    more_s = 2 * (hw.constant("copy_latency_s") + 0.0) * n_experts
    assert times[1] > times[0]
    assert times[1] < times[0] + 3 * more_s


def test_what_was_written_back_is_fetched_no_sooner() -> None:
    found = captured("on_demand+lru:3:write_back", batch=2)
    schedule, model = found.decoded.schedule, found.model
    written: dict[tuple[int, int], int] = {}
    n_again, held = 0, 0
    for op, kind in enumerate(schedule.kind.tolist()):
        key = int(schedule.layer[op]), int(schedule.expert[op])
        if kind == OpKind.WRITE_BACK:
            assert schedule.lane[op] == Lane.D2H
            written[key] = op
            held -= 1
        elif kind == OpKind.FETCH:
            if key in written:
                n_again += 1
                assert written[key] in schedule.deps(op)
            held += 1
    assert n_again > 3
    result = pregate.simulate(model, load_platform("rtx-4090", "streams"), found.trace, "on_demand+lru:3:write_back")
    assert result.written_back_bytes == len(np.flatnonzero(schedule.kind == OpKind.WRITE_BACK)) * model.expert_bytes
    assert pregate.simulate(model, load_platform("rtx-4090"), found.trace, "on_demand+lru:3").written_back_bytes == 0


def test_a_policy_that_names_its_chunk_is_served_so() -> None:
    policy = policy_named("pregate:granularity=1MiB")
    assert policy.chunk_bytes == 1 << 20
    assert modes_of(policy, FIFO) == Modes(link="priority", chunk_bytes=1 << 20, cancel=True)
    assert modes_of(policy, Modes(hbm_shared=True)).hbm_shared
    assert modes_of(policy_named("pregate"), FIFO) == FIFO
    for modes in (Modes(chunk_bytes=5), Modes(link="shared")):
        with pytest.raises(InvalidInput, match=r"leave (chunk|shared) out of the modes"):
            modes_of(policy, modes)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("on_demand:granularity=tensor", "granularity is layer, expert, matrix, or the size of a chunk"),
        ("on_demand:granularity=", "granularity is layer, expert, matrix"),
        ("on_demand:granularity=0", "a chunk has 1 byte to 1 PiB"),
        ("on_demand:granularity=0.5B", "a chunk has 1 byte to 1 PiB"),
        ("on_demand:granularity=nan", "granularity is layer"),
        ("on_demand:granularity=\u0663MiB", "granularity is layer"),
        ("on_demand:granularity=9999999999GiB", "a chunk has 1 byte to 1 PiB"),
        ("on_demand:granularity=matrix:granularity=layer", "says granularity twice"),
        ("gpu_only:granularity=matrix", "keeps every expert in HBM"),
        ("on_demand:granularity=layer+lru:4", "leave granularity=layer out"),
        ("on_demand:cpu:granularity=layer", "leave granularity=layer out"),
        ("guess/markov:granularity=layer", "leave granularity=layer out"),
        ("on_demand@micro=1:granularity=matrix", "leave micro= or granularity=matrix out"),
        ("on_demand+static:0.1:write_back", "leave write_back out"),
        ("on_demand+lru:0.1:write_back=1", "unknown cache option"),
        ("on_demand+lru:0.1:write_back:write_back", "says write_back twice"),
    ],
)
def test_what_cannot_be_is_one_line(run: Run, policy: str, words: str) -> None:
    status, out, said = run("simulate", *SMALL, "--batch", "2", "--policy", policy)
    assert (status, out) == (2, "")
    assert words in " ".join(said.split())
    assert "Traceback" not in said


def test_designs_are_compared_by_what_one_copy_brings(run: Run) -> None:
    names = "on_demand,on_demand:granularity=matrix,prefetch_all:granularity=layer,on_demand:granularity=1MiB"
    status, found, _ = run("compare", *SMALL, "--policies", f"{names},on_demand+lru:0.1:write_back")
    assert status == 0
    for word in ("granularity=matrix", "granularity=layer", "granularity=1MiB", "write_back"):
        assert word in found
    assert "written_back_bytes" in run("simulate", *SMALL, "--policy", "on_demand+lru:0.1:write_back")[1]
