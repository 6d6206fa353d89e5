"""A kernel does as machine code what it does as Python, and what cannot be said is refused with its line."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import pytest

from compiled import machine_code, system, translate, vector
from compiled.machine_code import Kernel
from compiled.translate import module_of
from compiled.writer import Writer
from runtime.backends.pacing_kernel import COPY, SPIN

LIMIT, HALF, ON = 7, 0.5, True
RECORD = np.dtype([("time_s", "f8"), ("look", "i8"), ("flag", "i1")])

INTS = ("int64[1]", "int64[1]")
FLOATS = ("float64[1]", "float64[1]")


class Pair(NamedTuple):
    """Two arrays and a number."""

    left: Any
    right: Any
    n: int


def arithmetic(a: Any, out: Any) -> None:
    x, y = a[0], a[1]
    out[0], out[1], out[2], out[3] = x + y, x - y, x * y, x // y
    out[4], out[5], out[6], out[7] = x % y, -x, x & y, x | y
    out[8], out[9], out[10], out[11] = x ^ y, x << 3, x >> 1, ~x
    out[12], out[13], out[14] = max(x, y), min(x, y, 0), int(x / y)
    out[15], out[16] = x < y, (x < y) + (x == y) + (x != y) + (x >= y)
    out[17] = LIMIT if ON and x > y else -LIMIT
    out[18] = 1 if 0 < x <= 10 else 2
    out[19] = x in (1, LIMIT, -LIMIT)
    out[20] = not x


def floats(a: Any, out: Any) -> None:
    x, y = a[0], a[1]
    out[0], out[1], out[2], out[3] = x + y, x - y, x * y, x / y
    out[4], out[5], out[6] = -x, max(x, y), min(x, y)
    out[7], out[8] = float(int(x)), HALF * 3
    out[9] = np.inf if x > y else -np.inf
    out[10] = bool(x) + 0.25
    until = 0
    until = until + x
    out[11] = until


def loops(a: Any, out: Any) -> int:
    n = 0
    for i in range(a.size):
        if a[i] < 0:
            continue
        if a[i] > 90:
            break
        for k in range(i, -1, -2):
            out[k] += a[i]
            n += 1
    at = 3
    while True:
        at -= 1
        if at == 0:
            return n
        out[at] *= 2
    return -1


def rows(table: Any, small: Any, flags: Any, out: Any) -> int:
    n_rows, n_columns = table.shape
    for i in range(n_rows):
        mine = table[i]
        mine[n_columns - 1] = small[i, -1]
        for k in range(len(mine)):
            out[0] += mine[k]
        flags[i] = mine[0] > 0 and not flags[i]
    return table.size + flags.size


def calls(a: Any, out: Any) -> None:
    pair = Pair(a, out, 3)
    low, high = _ends(pair, 1)
    out[0], out[1] = low, high
    out[2] = _ends(pair, 0)[1]


def _ends(pair: Any, at: int) -> Any:
    pair.right[3] += pair.n
    if at:
        return pair.left[0], pair.left[1] * HALF
    return 0, 1.5


def records(machine: Any, out: Any) -> None:
    m = machine[0]
    m.look |= 6
    m.time_s = m.time_s + 0.25
    m.flag = -1
    out[0], out[1], out[2] = m.look, m.flag, int(m.time_s * 4)


def lanes(table: Any, out: Any) -> int:
    first, second = vector.load(table, 0), vector.load(table, 1)
    vector.store(out, 0, vector.add(first, second))
    vector.store(out, 1, vector.subtract(first, second))
    vector.store(out, 2, vector.multiply(first, vector.splat(2)))
    vector.store(out, 3, vector.maximum(first, second))
    vector.store(out, 4, vector.where_below(first, second, 0.5))
    third = vector.load(table, 2)
    vector.store(out, 5, vector.if_below(first, second, third, vector.splat(0.25)))
    vector.store(out, 6, vector.if_equal(first, third, second, vector.splat(0.25)))
    return vector.below(first, second)


def compiled(function: Any, *arguments: str, returns: bool = False) -> Any:
    kernel = Kernel(__name__, function.__name__, arguments, returns)
    return machine_code._function(kernel, machine_code._address(machine_code.compiled_code(function, kernel.kinds)))


@pytest.mark.parametrize("x", [-9, -7, -1, 0, 1, 7, 12])
@pytest.mark.parametrize("y", [-5, -1, 1, 4, 7])
def test_whole_numbers_are_those_of_python(x: int, y: int) -> None:
    a, here, there = np.array([x, y]), np.zeros(21, np.int64), np.zeros(21, np.int64)
    compiled(arithmetic, *INTS)(a, here)
    arithmetic(a.tolist(), there)
    assert here.tolist() == there.tolist()


@pytest.mark.parametrize("x", [-2.75, 0.0, 1e18, 3.5])
@pytest.mark.parametrize("y", [-0.1, 3.5, 2.0**-1040])
def test_floats_are_those_of_python(x: float, y: float) -> None:
    a, here, there = np.array([x, y]), np.zeros(12), np.zeros(12)
    compiled(floats, *FLOATS)(a, here)
    with np.errstate(over="ignore"):
        floats(a, there)
    assert here.tobytes() == there.tobytes()


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [5, -1, 6, 7], [1, 99, 3, 4]])
def test_loops_go_on_and_end_as_those_of_python(values: list[int]) -> None:
    a, here, there = np.array(values), np.ones(4, np.int64), np.ones(4, np.int64)
    assert compiled(loops, *INTS, returns=True)(a, here) == loops(a, there)
    assert here.tolist() == there.tolist()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint32", "int64", "float64"])
def test_rows_and_numbers_of_every_size(dtype: str) -> None:
    found = []
    for ran in (compiled(rows, "float64[2]", f"{dtype}[2]", "bool[1]", "float64[1]", returns=True), rows):
        table, small = np.arange(12.0).reshape(3, 4), np.array([[1, 120], [2, 4], [3, 9]]).astype(dtype)
        flags, out = np.array([True, False, True]), np.zeros(1)
        found.append((ran(table, small, flags, out), table.tolist(), flags.tolist(), out.tolist()))
    assert found[0] == found[1]


def test_functions_return_several_values_and_take_values_with_names() -> None:
    a, here, there = np.array([3, 5]), np.zeros(4), np.zeros(4)
    compiled(calls, "int64[1]", "float64[1]")(a, here)
    calls(a, there)
    assert here.tolist() == there.tolist()


def test_records_are_read_and_written() -> None:
    found = []
    for ran in (compiled(records, f"{__name__}:RECORD[1]", "int64[1]"), records):
        machine, out = np.zeros(1, RECORD).view(np.recarray), np.zeros(3, np.int64)
        machine["look"], machine["time_s"] = 1, 0.5
        ran(machine.view(RECORD, np.ndarray) if ran is not records else machine, out)
        found.append((machine["look"][0], machine["time_s"][0], machine["flag"][0], out.tolist()))
    assert found[0] == found[1] == (7, 0.75, -1, [7, -1, 3])


def test_vectors_are_lane_by_lane() -> None:
    rng, found = np.random.default_rng(0), []
    table = rng.random((3, vector.WIDTH))
    table[2, ::3] = table[0, ::3]
    for ran in (compiled(lanes, "float64[2]", "float64[2]", returns=True), lanes):
        out = np.zeros((7, vector.WIDTH))
        found.append((ran(table, out) & vector.ALL, out.tobytes()))
    assert found[0] == found[1]


def no_such_statement(a: Any) -> None:
    with a:
        pass


def no_such_name(a: Any) -> None:
    a[0] = nowhere  # type: ignore[name-defined]  # noqa: F821


def a_list(a: Any) -> None:
    a[0] = [1][0]


LATER = 3


def read_before(a: Any) -> None:
    a[0] = LATER  # noqa: F823
    LATER = a[1]  # noqa: F841, N806


def two_kinds(a: Any) -> None:
    b = a
    b = 1  # noqa: F841


def unknown_step(a: Any) -> None:
    for i in range(0, 4, a[0]):
        a[i] = 0


def unsigned(small: Any, table: Any, out: Any) -> None:
    x, y = small[0], small[1]
    small[0] -= 9
    small[1] += y
    small[2] *= 3
    small[3] <<= 2
    out[0], out[1], out[2], out[3] = int(x) - 9, x * 0.5, x // 2, x % 3
    out[4], out[5], out[6] = x & y, x >> 1, -int(y)
    out[7] = max(x, y) if x > y else min(x, y)
    out[8], out[9] = table[x % 3], x == y
    for i in range(x):
        out[10] += i


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_unsigned_numbers_of_few_bits_are_those_of_numpy(dtype: str) -> None:
    found = []
    for ran in (compiled(unsigned, f"{dtype}[1]", "int64[1]", "float64[1]"), unsigned):
        small, out = np.array([5, 0, 0, 1], dtype), np.zeros(11)
        small[1:3] = np.iinfo(dtype).max - 1
        with np.errstate(over="ignore"):
            ran(small, np.arange(3), out)
        found.append((small.tolist(), out.tolist()))
    assert found[0] == found[1]
    around = int(np.iinfo(dtype).max) + 1
    assert found[0][0] == [around - 4, around - 4, around - 6, 4]


def adds(a: Any, b: Any) -> None:
    b[0] = a[0] + 1


def takes(a: Any, b: Any) -> None:
    x = a[0]
    b[0] = 0 - x


def multiplies(a: Any, b: Any) -> None:
    b[0] = 2 * max(a[0], 1)


def shifts(a: Any, b: Any) -> None:
    b[0] = (a[0] // 2) << 9


def negates(a: Any, b: Any) -> None:
    b[0] = -a[0]


def inverts(a: Any, b: Any) -> None:
    b[0] = ~a[0]


def grows(a: Any, b: Any) -> None:
    n = 0
    for i in range(a.size):
        n += a[i]
    b[0] = n


def hands_on(a: Any, b: Any) -> None:
    b[0] = _one_more(a[0])


def _one_more(x: Any) -> Any:
    return x + 1


@pytest.mark.parametrize("wrong", [adds, takes, multiplies, shifts, negates, inverts, grows, hands_on])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_nothing_is_added_to_an_unsigned_number_that_numpy_would_keep_in_its_bits(wrong: Any, dtype: str) -> None:
    with pytest.raises(TypeError, match=r"^line \d+: .* ask for int\(\) of it$"):
        module_of(wrong, ((np.dtype(dtype), 1), (np.dtype("int64"), 1)), 8)


@pytest.mark.parametrize("wrong", [no_such_statement, no_such_name, a_list, read_before, two_kinds, unknown_step])
def test_what_a_kernel_may_not_say_is_refused_with_its_line(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^line \d+: .* in a kernel: "):
        module_of(wrong, ((np.dtype("int64"), 1),), 8)


def one_kind(a: Any) -> int:
    most = 0
    for i in range(a.size):
        if a[i] > most:
            most = a[i]
    return most


def two_passes(a: Any) -> int:
    most = 0
    for i in range(a.size):
        if a[i] > most:
            most = a[i] * 1.5
    return int(most)


@pytest.mark.parametrize(("function", "n_times"), [(one_kind, 1), (two_passes, 2)])
def test_a_function_is_written_again_only_where_a_variable_holds_more_than_was_known(
    function: Any, n_times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[translate.Writer] = []

    def writer(width: int) -> translate.Writer:
        written.append(Writer(width))
        return written[-1]

    monkeypatch.setattr(translate, "Writer", writer)
    numbers = np.array([3, 7, 5])
    assert compiled(function, "int64[1]", returns=True)(numbers) == function(numbers)
    assert len(written) == n_times


def test_code_of_a_kernel_touches_nothing_but_its_arrays() -> None:
    """Nothing is called that another process might not have: of the C library three functions, by what paces copies."""
    import llvmlite.binding as llvm

    from pregate.kernels import KERNELS

    for kernel in KERNELS:
        function = getattr(machine_code.import_module(kernel.home), kernel.name)
        module = llvm.parse_assembly(module_of(function, kernel.kinds, 8))
        called = {one.name for one in module.functions if one.is_declaration}
        assert called <= ({"memcpy", "clock_gettime", "nanosleep"} if kernel in (COPY, SPIN) else set()), kernel


def asks_the_system(given: Any, out: Any) -> int:
    system.copy_bytes(given[0], given[1], given[2])
    before = system.clock_ns(given[3])
    system.sleep_ns(given[4])
    out[0] = system.clock_ns(given[3]) - before
    return before


@pytest.mark.parametrize("as_machine_code", [True, False])
def test_a_kernel_copies_bytes_reads_the_clock_and_pauses(as_machine_code: bool) -> None:
    run = compiled(asks_the_system, *INTS, returns=True) if as_machine_code else asks_the_system
    source, target, out = np.arange(1000, dtype=np.uint8), np.zeros(1000, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    asked = [target.ctypes.data, source.ctypes.data, 999, time.CLOCK_MONOTONIC, 2_000_000]
    early = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    before = run(np.array(asked), out)
    late = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert target.tolist() == [*source[:999].tolist(), 0]
    assert early <= before <= before + out[0] <= late
    assert out[0] >= 2_000_000


def _sums(a: Any, out: Any) -> None:
    for i in range(len(a)):
        out[0] += a[i] * a[i]


def test_loops_that_are_not_unrolled_do_the_same_in_less_code() -> None:
    kinds = Kernel(__name__, "_sums", INTS).kinds
    codes = [machine_code.compiled_code(_sums, kinds, unrolls=unrolls) for unrolls in (True, False)]
    assert len(codes[1]) < len(codes[0])
    found = np.zeros((2, 1), np.int64)
    for code, out in zip(codes, found, strict=True):
        machine_code._function(Kernel(__name__, "_sums", INTS), machine_code._address(code))(np.arange(100), out)
    assert found.tolist() == [[328350]] * 2
