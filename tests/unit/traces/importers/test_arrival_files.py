"""Who asks when, from files of others, and requests made up or resampled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from traces.errors import InvalidFile, InvalidInput
from traces.importers import import_trace
from traces.importers.arrivals import load_arrivals
from traces.requests import ArrivalTrace, poisson_arrivals

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.6805900,374,44
2023-11-17 00:00:00.9951690,396,0
2023-11-17 00:00:01.1805900,879,55
"""
MOONCAKE = """{"timestamp": 1500, "input_length": 10, "output_length": 3, "hash_ids": [0, 1]}
{"timestamp": 500, "input_length": 7, "output_length": 2, "hash_ids": [0]}
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,API
45.5,GPT-4,1087,230,1317,API
"""
OWN = "# mine\narrival_s;output_tokens;input_tokens\n3.5;2;9\n3.5;4;8\n"
VIDUR = "arrived_at\tnum_prefill_tokens\tnum_decode_tokens\n0.25\t3\t4\n1.25\t5\t6\n"
BAILIAN = """{"chat_id": 159, "timestamp": 61.5, "input_length": 521, "output_length": 132, "turn": 2}
{"chat_id": 160, "timestamp": 62.5, "input_length": 400, "output_length": 80, "turn": 1}
"""
MOONCAKE_TABLE = "timestamp,input_length,output_length\n500,7,2\n1500,10,3\n"
SECONDS = """{"arrival_s": 1, "input_length": 10, "output_length": 3}
{"arrival_s": 3, "input_length": 7, "output_length": 2}
"""
DATES = """{"timestamp": "2024-05-10 00:00:01", "input_length": 10, "output_length": 3}
{"timestamp": "2024-05-10 00:00:03", "input_length": 7, "output_length": 2}
"""
SPLITWISE = (
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    "0,2,0,1.5,1,374,44\n1,2,0,2.5,1,396,109\n"
)
NANOSECONDS = """{"input_toks": 128, "output_toks": 32, "arrival_time_ns": 1000000}
{"input_toks": 64, "output_toks": 16, "arrival_time_ns": 501000000}
"""
LISTED = """[
  {"timestamp": 500, "input_length": 7, "output_length": 2},
  {"timestamp": 1500, "input_length": 10, "output_length": 3}
]
"""
QUOTED = '"arrival_time_us","prompt_len","output_len"\n"0","3","4"\n"250000","5","6"\n'
MS = "arrival_ms,prompt_tokens,completion_tokens\n0,3,4\n250,5.0,6\n"


@pytest.mark.parametrize(
    ("text", "arrival_s", "inputs", "outputs", "left_out"),
    [
        (AZURE, [0.0, 1.5], [374, 879], [44, 55], 1),
        (MOONCAKE, [0.0, 1.0], [7, 10], [2, 3], 0),
        (BURST, [0.0, 40.5], [472, 1087], [18, 230], 0),
        (OWN, [0.0, 0.0], [9, 8], [2, 4], 0),
        (VIDUR, [0.0, 1.0], [3, 5], [4, 6], 0),
        (MS, [0.0, 0.25], [3, 5], [4, 6], 0),
        (BAILIAN, [0.0, 1.0], [521, 400], [132, 80], 0),
        (MOONCAKE_TABLE, [0.0, 1.0], [7, 10], [2, 3], 0),
        (SECONDS, [0.0, 2.0], [10, 7], [3, 2], 0),
        (DATES, [0.0, 2.0], [10, 7], [3, 2], 0),
        (SPLITWISE, [0.0, 1.0], [374, 396], [44, 109], 0),
        (NANOSECONDS, [0.0, 0.5], [128, 64], [32, 16], 0),
        (LISTED, [0.0, 1.0], [7, 10], [2, 3], 0),
        (QUOTED, [0.0, 0.25], [3, 5], [4, 6], 0),
    ],
)
def test_arrivals_are_read_as_public_traces_have_them(
    tmp_path: Path, text: str, arrival_s: list[float], inputs: list[int], outputs: list[int], left_out: int
) -> None:
    path = tmp_path / "some.csv"
    path.write_text(text)
    found = load_arrivals(path)
    assert found.arrival_s.tolist() == pytest.approx(arrival_s, abs=1e-6)
    assert (found.input_tokens.tolist(), found.output_tokens.tolist()) == (inputs, outputs)
    assert (found.source, found.n_left_out) == ("some.csv", left_out)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "columns are ''"),
        ("time,tokens\n1,2\n", "name a time, prompt and answer"),
        ("arrival_s,input_tokens,output_tokens\n", "0 arrivals"),
        ("arrival_s,input_tokens,output_tokens\n1,2,3\n", "1 arrivals"),
        ("arrival_s,input_tokens,output_tokens\n1,2\n", "line 2: 2 fields, not 3"),
        ("arrival_s,input_tokens,output_tokens\nsoon,2,3\n", "line 2: 'soon' is no time"),
        ("arrival_s,input_tokens,output_tokens\ninf,2,3\n", "'inf' is no time"),
        ("arrival_s,input_tokens,output_tokens\n1700000000000,2,3\n", "line 2: 1700000000000 is too late for seconds"),
        ("arrival_s,input_tokens,output_tokens\n-1e308,2,3\n", "arrival_ms has milliseconds"),
        ("arrival_s,input_tokens,output_tokens\n1_0,2,3\n", "'1_0' is no time"),
        ("arrival_s,input_tokens,output_tokens\n1,-2,3\n", "input_tokens is '-2'"),
        ("arrival_s,input_tokens,output_tokens\n1,2,1e9\n", "output_tokens is '1e9'"),
        ("arrival_s,input_tokens,output_tokens\n1,2,99999999999999\n", "a whole number up to 10,000,000"),
        ("arrival_s,timestamp,input_tokens,output_tokens\n1,1,2,3\n", "name a time"),
        ('{"timestamp": 1, "input_length": 2}\n', "such as timestamp, input_length, output_length"),
        ('[{"timestamp": 1, "input_length": 2, "output_length": 3}, 7]', "request 2 of the list is no JSON object"),
        ("[1, 2", "not valid JSON"),
        ('{"timestamp": true, "input_length": 2, "output_length": 3}\n', "'True' is no time"),
    ],
)
def test_what_is_no_arrival_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "some.csv"
    path.write_text(text)
    with pytest.raises(InvalidFile) as error:
        load_arrivals(path)
    assert told in str(error.value)


@pytest.mark.parametrize("text", [AZURE, MOONCAKE, QUOTED])
def test_arrivals_are_no_routing_and_their_use_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.csv"
    path.write_text(text)
    with pytest.raises(InvalidFile, match="times of requests, not a routing trace: `pregate arrivals` takes it"):
        import_trace(path)


def test_another_rate_keeps_bursts_and_lengths() -> None:
    some = ArrivalTrace(np.array([2.0, 3.0, 3.0, 12.0]), np.arange(1, 5), np.arange(2, 6))
    assert some.rate == pytest.approx(0.3)
    fast = some.at_rate(3.0)
    assert fast.arrival_s.tolist() == pytest.approx([0.0, 0.1, 0.1, 1.0])
    assert fast.rate == pytest.approx(3.0)
    assert fast.input_tokens.tolist() == [1, 2, 3, 4]
    with pytest.raises(InvalidInput, match="all 3 requests arrive at once"):
        ArrivalTrace(np.zeros(3), np.ones(3), np.ones(3)).at_rate(1.0)
    for rate in (0.0, -1.0, 1e-12, 1e-300, np.inf, np.nan):
        with pytest.raises(InvalidInput, match=r"4 requests at .* a second: above 0, and within 1e\+10 s"):
            some.at_rate(rate)


def test_requests_made_up_come_independently_at_their_rate() -> None:
    found = poisson_arrivals(100_000, 2.0, 7, 9, seed=1)
    gaps = np.diff(found.arrival_s)
    assert gaps.mean() == pytest.approx(0.5, rel=0.02)
    assert gaps.std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02
    assert set(found.input_tokens.tolist()) == {7}


def test_resampled_requests_keep_the_rate_the_lengths_and_bursts_shorter_than_a_run() -> None:
    rng = np.random.default_rng(2)
    slow = rng.random(400).repeat(25) < 0.5  # quiet and busy stretches of 25 requests
    gaps = np.where(slow, 10.0, 0.1) * rng.exponential(1.0, 10_000)
    some = ArrivalTrace(np.cumsum(gaps), np.where(slow, 5, 50), np.full(10_000, 3))
    rates, near = [], []
    for seed in range(30):
        found = some.resampled(np.random.default_rng(seed))
        assert len(found) == len(some)
        rates.append(found.rate)
        own = np.diff(found.arrival_s)
        near.append(np.corrcoef(np.log(own[:-1]), np.log(own[1:]))[0, 1])
        assert own[found.input_tokens[1:] == 50].mean() < 0.3
    assert np.mean(rates) == pytest.approx(some.rate, rel=0.05)
    log = np.log(np.diff(some.arrival_s))
    assert np.mean(near) == pytest.approx(np.corrcoef(log[:-1], log[1:])[0, 1], rel=0.05)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (([0.0, 1.0], [1], [1, 1]), "2 arrivals"),
        (([1.0, 0.0], [1, 1], [1, 1]), "in order"),
        (([0.0, np.nan], [1, 1], [1, 1]), "finite"),
        (([0.0, 1.0], [1, 0], [1, 1]), "at least one token"),
    ],
)
def test_a_trace_of_arrivals_holds_what_can_be_served(arrays: tuple[list[float], ...], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ArrivalTrace(*map(np.array, arrays))


def _with_blocks(tmp_path: Path, rows: list[tuple[int, str]]) -> ArrivalTrace:
    lines = [
        f'{{"timestamp": {1000 - i}, "input_length": {n}, "output_length": 3{ids}}}' for i, (n, ids) in enumerate(rows)
    ]
    (tmp_path / "blocks.jsonl").write_text("\n".join(lines))
    return load_arrivals(tmp_path / "blocks.jsonl")


def test_blocks_of_prompts_are_read_in_order_where_every_request_states_all_of_its_own(tmp_path: Path) -> None:
    last = (600, ', "hash_ids": [7, 9]')
    found = _with_blocks(tmp_path, [(513, ', "hash_ids": [7, 8]'), last])
    assert (found.block_tokens, [one.tolist() for one in found.prefixes]) == (512, [[7, 9], [7, 8]])
    assert _with_blocks(tmp_path, [(33, ', "hash_ids": [1, 2]'), (31, ', "hash_ids": [1, 3]')]).block_tokens == 16
    assert _with_blocks(tmp_path, [(513, ', "hash_ids": [1]'), last]).block_tokens == 512, "of whole blocks alone"
    for other in ((513, ""), (5000, ', "hash_ids": [1, 2]')):
        found = _with_blocks(tmp_path, [other, last])
        assert (found.block_tokens, found.prefixes) == (0, ())
    for ids in ("[1.5, 2]", "[-1, 2]", "[true, 1]", '"ab"', "[9223372036854775808, 1]"):
        with pytest.raises(InvalidFile, match=r"line 1: hash_ids is .*: a list of whole numbers from 0"):
            _with_blocks(tmp_path, [(513, f', "hash_ids": {ids}'), last])


def test_fractions_where_whole_milliseconds_stand_are_no_guess(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(f'{{"timestamp": {time}, "input_length": 10, "output_length": 3}}\n' for time in (0.0, 1.5))
    )
    with pytest.raises(InvalidFile, match="line 2: timestamp beside input_length is whole milliseconds: call seconds"):
        load_arrivals(path)


@pytest.mark.parametrize("key", ["conversations", "conversation", "prompt"])
def test_sets_of_prompts_are_told_that_nobody_counted_their_tokens(tmp_path: Path, key: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"id": "a", key: [{"value": "hello"}]}) + "\n", encoding="utf-8")
    with pytest.raises(InvalidFile, match=f"{key} is text, whose tokens nobody counted: name a time"):
        load_arrivals(path)
