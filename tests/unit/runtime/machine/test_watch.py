"""The watch: load that is nobody's own is seen, whatever else the machine is."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.machine.watch import Clock, Limits, LoadWatch, Reading, Seen, between, counting

LIMITS = Limits(foreign=0.06, steal=0.03, clock=0.5)


def reading(
    wall_s: float, own_s: float, busy_s: float | None, steal_s: float | None = 0.0, loop_s: float = 1e-3
) -> Reading:
    return Reading(wall_s, own_s, busy_s, steal_s, loop_s)


def test_foreign_load_is_what_neither_this_process_nor_idleness_accounts_for() -> None:
    """Ten seconds, in which all processors were busy for 12 s, this process for 9 s of them."""
    seen = between(reading(100.0, 50.0, 500.0, 7.0), reading(110.0, 59.0, 512.0, 9.0, 1.25e-3), Clock())
    assert seen == Seen(foreign=pytest.approx(0.3), steal=pytest.approx(0.2), clock=pytest.approx(1.25))


def test_own_work_is_not_foreign() -> None:
    assert between(reading(0.0, 0.0, 0.0), reading(10.0, 20.0, 20.0), Clock()).foreign == 0.0
    coarse = between(reading(0.0, 0.0, 0.0), reading(10.0, 20.0, 19.99), Clock())  # the counters tick in hundredths
    assert coarse.foreign == 0.0


def test_without_proc_only_the_clock_is_watched() -> None:
    seen = between(reading(0.0, 0.0, None, None), reading(1.0, 9.0, None, None, 2e-3), Clock())
    assert seen == Seen(0.0, 0.0, 2.0)
    half = between(reading(0.0, 0.0, None, None), reading(1.0, 0.0, 5.0, 5.0), Clock())
    assert (half.foreign, half.steal) == (0.0, 0.0)


def test_a_loop_slow_before_and_after_is_slow_beside_the_fastest_of_the_session() -> None:
    clock = Clock()
    slow, fast = reading(0.0, 0.0, 0.0, loop_s=2e-3), reading(1.0, 0.0, 0.0, loop_s=1e-3)
    assert between(slow, slow, clock).clock == 1.0
    assert between(fast, fast, clock).clock == 1.0
    assert between(slow, slow, clock).clock == 2.0


def test_two_readings_at_once_divide_by_nothing() -> None:
    assert between(reading(1.0, 0.0, 0.0), reading(1.0, 0.0, 0.0), Clock()) == Seen(0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (Seen(0.06, 0.03, 1.5), None),
        (Seen(0.061, 0.0, 1.0), r"^other processes used 0.06 cores \(at most 0.06\)$"),
        (Seen(1.0, 1.0, 9.0), "^other processes used 1.00 cores"),
        (Seen(0.0, 0.5, 1.0), r"^the hypervisor took 0.50 cores away \(at most 0.03\)$"),
        (Seen(0.0, 0.0, 1.6), r"^the same loop took 1.60 times as long as at its fastest \(at most 1.5\)$"),
        (Seen(0.0, 0.0, 1.4), None),
    ],
)
def test_a_disturbance_is_told_in_one_line(seen: Seen, line: str | None) -> None:
    told = seen.disturbance(LIMITS)
    if line is None:
        assert told is None
    else:
        assert told is not None
        assert re.search(line, told)


def test_counters_only_grow() -> None:
    before, after = Reading.now(), Reading.now()
    assert after.wall_s >= before.wall_s
    assert after.own_s >= before.own_s
    assert before.loop_s > 0
    if Path("/proc/stat").exists():
        assert before.busy_s is not None
        assert after.busy_s is not None
        assert after.busy_s >= before.busy_s > 0


@pytest.fixture
def burning() -> Iterator[None]:
    """Another process that keeps a core busy."""
    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat to see others by")
def test_a_process_that_burns_a_core_is_seen(burning: None) -> None:
    """However many others want the core too: what it gets is somebody else's."""
    with LoadWatch() as beside:
        time.sleep(1.0)
    assert beside.seen.foreign > LIMITS.foreign
    assert beside.seen.disturbance(LIMITS) is not None


@pytest.mark.parametrize(
    ("seen", "load"),
    [
        (Seen(0.0, 0.0, 1.0), 0.0),
        (Seen(0.03, 0.0, 1.0), 0.5),
        (Seen(0.06, 0.09, 1.0), 3.0),
        (Seen(0.0, 0.0, 1.5), 1.0),
        (Seen(0.0, 0.0, 2.25), 2.0),
    ],
)
def test_load_is_told_in_multiples_of_what_leaves_times_alone(seen: Seen, load: float) -> None:
    assert seen.load(LIMITS) == pytest.approx(load)
    assert (seen.disturbance(LIMITS) is None) == (load <= 1)


def foreign(*cores: float) -> list[Seen]:
    return [Seen(each, 0.0, 1.0) for each in cores]


def test_quiet_timings_count_where_there_are_any() -> None:
    assert counting(foreign(0.0, 1.0, 0.05, 0.07), LIMITS) == [0, 2]
    assert counting(foreign(1.0, 0.0), LIMITS) == [1]


def test_on_a_machine_that_is_never_quiet_the_less_disturbed_half_counts() -> None:
    """The idle virtual machine that was refused five times of five: clock, others and steal all a little above."""
    assert counting(foreign(1.0, 0.3, 0.5, 0.9), LIMITS) == [1, 2]
    assert counting([Seen(0.10, 0.05, 1.6), Seen(0.10, 0.13, 1.0), Seen(0.02, 0.05, 1.1)], LIMITS) == [0, 2]
    assert counting(foreign(2.0), LIMITS) == [0]
    assert counting(foreign(2.0, 1.0), LIMITS) == [0, 1]
    assert counting([], LIMITS) == []
