"""How results show themselves: their fields in order, one line as text, a table in a notebook, a DataFrame."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from offload.metrics.metric_names import METRICS, Metrics
from traces.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd


COLUMNS: dict[str, str] = {
    "policy": "policy",
    "moe_layer_latency_s": "MoE layer (s)",
    "tokens_per_s": "tokens/s, prompt included",
    "ttft_s": "TTFT (s)",
    "tpot_s": "TPOT (s)",
    "peak_hbm_bytes": "peak HBM (bytes)",
    "h2d_bytes": "link bytes",
    "hit_rate": "hits",
    "stall_share": "stalled",
    "calibration": "calibration",
}
"""What a table shows of a result, by field, with its title."""


def to_dataframe(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a pandas DataFrame. Raises `InvalidInput` when pandas is not installed."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise InvalidInput("pandas is not installed: pip install 'pregate[notebooks]', or use to_dict()") from None
    return pd.DataFrame(rows)


def fields_of(result: Metrics, *, metrics_before: str) -> dict[str, Any]:
    """Every field of a result but its timeline and the error of its rate, the metrics together where `metrics_before`
    comes next.
    """
    own = [field.name for field in dataclasses.fields(result) if field.name not in (*METRICS, "timeline", "rate_error")]
    place = own.index(metrics_before)
    return {name: getattr(result, name) for name in (*own[:place], *METRICS, *own[place:])}


def one_line(kind: str, row: Mapping[str, Any]) -> str:
    """`kind` and the figures of `row` that a table shows."""
    return f"{kind}({', '.join(f'{name}={_text(row[name])}' for name in COLUMNS if name in row)})"


def html_table(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """The rows as an HTML table; what a row lacks is a dash. All text is escaped."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in COLUMNS.values())
    cells = ("".join(f"<td>{html.escape(_text(row.get(name)))}</td>" for name in COLUMNS) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def html_rows(rows: Sequence[Mapping[str, Any]], caption: str, most: int = 30) -> str:
    """Rows as an HTML table, a column a key of any of them, `most` rows at most. All text is escaped."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    cells = ("".join(f"<td>{html.escape(_text(row.get(name)))}</td>" for name in columns) for row in rows[:most])
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    left = f" The first {most} of {len(rows)} rows." if len(rows) > most else ""
    return f"<table><caption>{html.escape(caption + left)}</caption><tr>{head}</tr>{body}</table>"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
