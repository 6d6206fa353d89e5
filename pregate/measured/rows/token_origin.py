"""Which tokens a row was measured with: text, or numbers drawn at random, which have no sequence to keep to."""

from __future__ import annotations

from collections.abc import Mapping

from pregate.engines.flag_table import engine_of
from traces.errors import unknown_name

_OF_BENCHMARKS = ("prefill_tokens_per_s", "decode_tokens_per_s", "microbatch_tokens_per_s")
"""What benchmarks of engines print."""
_TEXT, _RANDOM, _PUBLISHED = "text", "random", "isca24"


def tokens_of_row(cells: Mapping[str, str], where: str) -> str:
    """The column `routing` of a row: as it says, or where it says nothing as the benchmark of its engine has it.

    Rates of prompts and of decode are what an engine's own benchmark prints, and some draw the tokens that they feed at
    random (`benchmark_draws` of flags.yaml). A cache is tried with text. Raises `UnknownName`.
    """
    said = cells["routing"]
    if said == _TEXT:
        return ""
    if said in ("", _RANDOM):
        return said or (_RANDOM if _is_benchmark(cells) else "")
    if said.partition(":")[0] != _PUBLISHED:
        raise unknown_name("routing", said, (_TEXT, _RANDOM, _PUBLISHED), where)
    return said


def _is_benchmark(cells: Mapping[str, str]) -> bool:
    engine = engine_of(cells["stack"])
    drawn = engine is not None and bool(engine.benchmark_draws)
    return drawn and cells["metric"] in _OF_BENCHMARKS and "+" not in cells["policy"]
