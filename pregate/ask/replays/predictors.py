"""How well each predictor would have guessed the experts of a recorded trace, with controls and intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offload.predictors.catalogue import GUESSERS
from offload.predictors.judged_predictors import GuessCounts, Judgement, judge_predictors
from pregate.ask.choices import GUESS_METRICS
from pregate.ask.result_display import to_dataframe
from traces.errors import InvalidInput, check_least, unknown_name
from traces.routing import RoutingTrace
from traces.statistics.bootstrap import ratio_intervals
from traces.transforms.splits import split_tokens

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class PredictorRow:
    """One predictor at one lookahead and m, all layers together.

    `low`, `high`: 95 % by drawing sequences again, None with one sequence. `shuffled`: recall of its guesses for other
    tokens, NaN of what knows the future. `precision`: of the k + m guessed, the share that was chosen. `by_layer`: of
    each MoE layer, None where it is not asked.
    """

    predictor: str
    lookahead: int
    more: int
    metric: str
    value: float
    low: float | None
    high: float | None
    shuffled: float
    precision: float
    by_layer: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PredictorCurves:
    """Rows by predictor, lookahead and m; iterate over them. `layers`: the MoE layers of `by_layer`.

    `split`: "sequence", or "time" for a trace of one; `batch`: judged sequences side by side;
    `note`: what must be said wherever the figures are quoted.
    """

    rows: tuple[PredictorRow, ...]
    metric: str
    model: str
    trace_digest: str
    layers: tuple[int, ...]
    top_k: int
    n_experts: int
    split: str
    n_learnt: int
    n_judged: int
    n_judged_tokens: int
    note: str
    batch: int = 1

    def __iter__(self) -> Iterator[PredictorRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def value(self, predictor: str, lookahead: int = 1, more: int = 0) -> float:
        """The figure of one row. Raises `KeyError` when it was not asked for."""
        for row in self.rows:
            if (row.predictor, row.lookahead, row.more) == (predictor, lookahead, more):
                return row.value
        raise KeyError((predictor, lookahead, more))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        return kept | {"metric_is": GUESS_METRICS[self.metric], "rows": [asdict(row) for row in self.rows]}

    def flat(self) -> list[dict[str, Any]]:
        """A row a predictor, lookahead, m and layer; layer None is all together."""
        found = []
        for row in self.rows:
            plain = asdict(row)
            by_layer = plain.pop("by_layer")
            found.append({"layer": None} | plain)
            alone = dict.fromkeys(("low", "high", "shuffled", "precision"))
            found += [
                {"layer": layer} | plain | alone | {"value": value}
                for layer, value in zip(self.layers, by_layer, strict=True)
                if value is not None
            ]
        return found

    def to_csv(self) -> str:
        """`flat` as CSV, empty where there is no figure."""
        text = io.StringIO()
        rows = [{name: None if value != value else value for name, value in row.items()} for row in self.flat()]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_dataframe(self) -> pd.DataFrame:
        """`flat` as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.flat())


def predictors(
    trace: RoutingTrace,
    names: Sequence[str] | None = None,
    lookaheads: Sequence[int] = (1, 2, 3),
    more: Sequence[int] = (0, 2, 4),
    *,
    metric: str = "recall",
    split: str = "alternate",
    seed: int = 0,
    batch: int = 1,
) -> PredictorCurves:
    """Judge predictors on the decode tokens of `trace`: learnt on some sequences, asked about the others.

    `names`: of `offload.predictors.catalogue.GUESSERS` (None: all), and `oracle`; `more`: experts guessed beyond the
    k that a token chooses; `metric`: of `GUESS_METRICS`; `split`: of `traces.transforms.splits.SPLITS`; `seed`: of the
    controls and intervals; `batch`: judged sequences side by side, whose unions of guesses and of experts are judged.
    Raises `UnknownName` for a name, `InvalidInput` for a number out of range or nothing to judge.
    """
    chosen = [*GUESSERS, "oracle"] if names is None else list(names)
    _check(chosen, lookaheads, more, metric, seed)
    if batch != 1 and metric == "top1":
        raise InvalidInput("metric top1 is of a token's best guess: leave batch out, or ask for recall or exact")
    learning = [name for name in chosen if name != "oracle"]
    found = judge_predictors(trace, learning, lookaheads, more, split=split, seed=seed, batch=batch)
    judged = {one.name: one for one in found.judged}
    rows: list[PredictorRow] = []
    for name in chosen:
        rows += _rows(judged[name] if name in judged else _oracle(found), found, metric, seed)
    return PredictorCurves(
        rows=tuple(rows),
        metric=metric,
        model=trace.provenance.model,
        trace_digest=trace.digest,
        layers=found.layers,
        top_k=found.top_k,
        n_experts=found.n_experts,
        split=found.split.by,
        n_learnt=found.split.n_learnt,
        n_judged=found.split.n_judged,
        n_judged_tokens=int(np.count_nonzero(~found.split.learns)),
        note="; ".join(filter(None, (_note(found, batch), trace.provenance.note))),
        batch=batch,
    )


def learning_part(trace: RoutingTrace, split: str = "alternate") -> RoutingTrace:
    """The decode tokens that `predictors` has its predictors learn from, as a trace for `guess/NAME:from=FILE`.

    `split` as of `predictors`. Raises `InvalidInput` where nothing decodes.
    """
    decoded = trace.decode_only()
    order = np.lexsort((decoded.position, decoded.sequence))
    learns = np.sort(order[split_tokens(decoded.sequence[order], split).learns])
    part = decoded.reordered(learns, decoded.step[learns])
    origin = trace.provenance
    note = "; ".join(filter(None, (origin.note, f"its part that predictors learn from, split {split}")))
    return replace(part, provenance=replace(origin, note=note))


def _check(names: Sequence[str], lookaheads: Sequence[int], more: Sequence[int], metric: str, seed: int) -> None:
    """Raise `InvalidInput` or `UnknownName` for what cannot be asked."""
    known = [*GUESSERS, "oracle"]
    for what, given in (("predictors", names), ("lookaheads", lookaheads), ("more", more)):
        if not given:
            raise InvalidInput(f"no {what} to judge: give at least one")
        if len(set(given)) < len(given):
            raise InvalidInput(f"{what} = {', '.join(map(str, given))}: name each once")
    for name in names:
        if name not in known:
            raise unknown_name("predictor", name, known)
    if metric not in GUESS_METRICS:
        raise unknown_name("metric", metric, GUESS_METRICS)
    if min(lookaheads) < 1:
        raise InvalidInput(f"lookahead = {min(lookaheads)} is below 1: a layer's own gate has run then")
    if min(more) < 0:
        raise InvalidInput(f"more = {min(more)} is below 0: how many experts are guessed beyond k")
    check_least("seed", seed, 0)


def _note(found: Judgement, batch: int) -> str:
    """What the figures are of, and are not."""
    if found.split.by == "time":
        return (
            "one sequence: its first half learns, the second is judged, and no interval can be given; "
            "these figures are of this prompt, its decoding and its top-k, not of the model"
        )
    few = f"; {found.split.n_judged} judged sequences make rough intervals" if found.split.n_judged < 10 else ""
    side = f", {batch} side by side: unions of their guesses against unions of their experts" if batch > 1 else ""
    return f"{found.split.n_learnt} sequences learn, {found.split.n_judged} others are judged{side}{few}"


def _oracle(found: Judgement) -> GuessCounts:
    """Every expert found; of another token, as many as the other chose alike is not asked: its control is itself."""
    right = np.repeat(found.n_chosen[:, :, None], len(found.more), axis=2)
    whole = np.repeat(found.n_tokens[:, :, None], len(found.more), axis=2)
    return GuessCounts("oracle", right, np.full_like(right, np.nan), whole, right, found.n_tokens)


def _rows(judged: GuessCounts, found: Judgement, metric: str, seed: int) -> list[PredictorRow]:
    """The rows of one predictor."""
    n_more = len(found.more)
    chosen, tokens = (np.repeat(one[:, :, None], n_more, axis=2) for one in (found.n_chosen, found.n_tokens))
    first = np.repeat(judged.first[:, :, None], n_more, axis=2)
    part, whole = {"recall": (judged.right, chosen), "exact": (judged.whole, tokens), "top1": (first, tokens)}[metric]
    ends = ratio_intervals(part.sum(axis=3), whole.sum(axis=3), np.random.default_rng(seed))
    rows = []
    for i, lookahead in enumerate(found.lookaheads):
        for j, more in enumerate(found.more):
            rows.append(
                PredictorRow(
                    judged.name,
                    lookahead,
                    more,
                    metric,
                    _share(part[:, i, j].sum(), whole[:, i, j].sum()),
                    None if ends is None else float(ends[0, i, j]),
                    None if ends is None else float(ends[1, i, j]),
                    _share(judged.shuffled[:, i, j].sum(), chosen[:, i, j].sum()),
                    _share(judged.right[:, i, j].sum(), judged.guessed[:, i, j].sum()),
                    _by_layer(part[:, i, j].sum(axis=0), whole[:, i, j].sum(axis=0)),
                )
            )
    return rows


def _by_layer(part: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
