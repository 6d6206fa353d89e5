"""A ledger of predictions: written before a run, never changed, scored against what is measured afterwards.

A line a prediction or a measurement, each with the digest of the line before: a line that was taken out or changed is
found when the file is read, so that failures stay. Anybody can still cut the end off, or write the whole anew.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import read_text

MAX_BYTES = 32 << 20
MAX_LINES = 100_000
MAX_LINE = 64 << 10
_FIRST = "0" * 16
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class Predicted:
    """A number that was predicted, its 95 % interval (None: it had none), and what it rests on."""

    value: float
    interval: tuple[float, float] | None
    rests_on: str

    def __post_init__(self) -> None:
        numbers = (self.value, *(self.interval or ()))
        if not all(0 <= number <= _LARGEST for number in numbers):
            raise InvalidInput(f"predicted {self.value!r}: a number from 0 to {_LARGEST:g}, and so its interval")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise InvalidInput(f"predicted {self.value!r}: the interval {self.interval} is upside down")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line: `id` names it, `subject` says of what it is, `metrics` by name."""

    id: str
    date: str
    release: str
    subject: Mapping[str, str]
    metrics: Mapping[str, Predicted]


@dataclass(frozen=True, slots=True)
class Entered:
    """One line: the `metric` of prediction `of` as it was measured."""

    of: str
    metric: str
    value: float
    date: str


@dataclass(frozen=True, slots=True)
class Score:
    """A prediction beside a measurement; `measured` None where nothing was yet."""

    prediction: Prediction
    metric: str
    measured: Entered | None

    @property
    def predicted(self) -> Predicted:
        """The number as it was predicted."""
        return self.prediction.metrics[self.metric]

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None where nothing was measured, or 0."""
        if self.measured is None or not self.measured.value:
            return None
        return self.predicted.value / self.measured.value - 1

    @property
    def verdict(self) -> str:
        """held or failed, by the interval; "no interval", or "open" where nothing was measured."""
        if self.measured is None:
            return "open"
        if self.predicted.interval is None:
            return "no interval"
        low, high = self.predicted.interval
        return "held" if low <= self.measured.value <= high else "failed"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        low, high = self.predicted.interval or (None, None)
        return {
            "id": self.prediction.id,
            "date": self.prediction.date,
            **self.prediction.subject,
            "metric": self.metric,
            "predicted": self.predicted.value,
            "low": low,
            "high": high,
            "rests_on": self.predicted.rests_on,
            "measured": None if self.measured is None else self.measured.value,
            "measured_on": None if self.measured is None else self.measured.date,
            "error": self.error,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """All lines of a file in order; `tail`: the digest that the next line states."""

    predictions: tuple[Prediction, ...]
    measured: tuple[Entered, ...]
    tail: str

    def scores(self) -> list[Score]:
        """Every predicted metric beside every measurement of it, in the order of the file."""
        found = []
        for prediction in self.predictions:
            for metric in prediction.metrics:
                own = [one for one in self.measured if (one.of, one.metric) == (prediction.id, metric)]
                found += [Score(prediction, metric, one) for one in own or (None,)]
        return found

    def verdict(self) -> str:
        """How many held and failed, and by how much, in words."""
        scores = self.scores()
        judged = [one for one in scores if one.measured is not None]
        if not judged:
            return f"{len(scores)} predictions, none measured yet."
        counts = {
            name: sum(one.verdict == name for one in scores) for name in ("held", "failed", "no interval", "open")
        }
        errors = sorted(abs(one.error) for one in judged if one.error is not None)
        told = [f"{counts['held']} held, {counts['failed']} failed"]
        told += [f"{counts[name]} {words}" for name, words in (("no interval", "had no interval"), ("open", "are open"))
                 if counts[name]]  # fmt: skip
        if errors:
            told.append(f"off by {sum(errors) / len(errors):.0%} on average, {errors[-1]:.0%} at most")
        return f"{', '.join(told)}."

    def find(self, key: str) -> tuple[str, str]:
        """The prediction and metric that `key` names: `ID.METRIC`, or `METRIC` of the last prediction.

        Raises `InvalidInput` for an empty ledger, `UnknownName` for a prediction or metric that is not in it.
        """
        if not self.predictions:
            raise InvalidInput("the ledger has no prediction yet: pregate plan MODEL --ledger FILE writes some")
        first, dot, rest = key.rpartition(".")
        by_id = {one.id: one for one in self.predictions}
        if dot and first not in by_id:
            raise unknown_name("prediction", first, by_id)
        prediction = by_id[first] if dot else self.predictions[-1]
        if rest not in prediction.metrics:
            raise unknown_name("predicted metric", rest, prediction.metrics)
        return prediction.id, rest


def append_predictions(
    path: Path, predictions: Iterable[tuple[Mapping[str, str], Mapping[str, Predicted]]], *, date: str | None = None
) -> list[str]:
    """Write predictions behind what `path` has, which is made where it is not there; returns their names.

    Raises `InvalidFile` for a file that is no ledger, or cannot be written.
    """
    from pregate import __version__

    lines = [
        {
            "kind": "predicted",
            "date": date or _now(),
            "release": __version__,
            "subject": dict(subject),
            "metrics": {name: [one.value, one.interval, one.rests_on] for name, one in metrics.items()},
        }
        for subject, metrics in predictions
    ]
    return [_digest(line)[:12] for line in _append(path, lines)]


def append_measured(path: Path, values: Sequence[tuple[str, str, float]], *, date: str | None = None) -> None:
    """Write measurements, each (prediction, metric, value), behind what `path` has. Raises as `append_predictions`, and
    `InvalidInput` for a value that is none.
    """
    for _, metric, value in values:
        if not (math.isfinite(value) and 0 <= value <= _LARGEST):
            raise InvalidInput(f"measured {metric} = {value!r}: a number from 0 to {_LARGEST:g}")
    _append(path, [
        {"kind": "measured", "date": date or _now(), "of": of, "metric": metric, "value": value}
        for of, metric, value in values
    ])  # fmt: skip


def load_ledger(path: Path) -> Ledger:
    """Read a ledger, every line of which is checked. Raises `InvalidFile` naming the line."""
    predictions: list[Prediction] = []
    measured: list[Entered] = []
    tail = _FIRST
    text = read_text(path, MAX_BYTES)
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise InvalidFile(f"{path}: more than {MAX_LINES} lines: begin another ledger")
    if lines.pop():
        raise InvalidFile(f"{path} line {len(lines) + 1}: cut off, a line ends with a line break")
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        entry = _entry(line, where)
        if entry.get("previous") != tail:
            raise InvalidFile(f"{where}: does not follow from the line before, which was changed or taken out")
        tail = _digest(line)[:16]
        if entry.get("kind") == "measured":
            measured.append(_measured(entry, where))
        else:
            predictions.append(_prediction(entry, _digest(line)[:12], where))
    known = {(one.id, metric) for one in predictions for metric in one.metrics}
    for one in measured:
        if (one.of, one.metric) not in known:
            raise InvalidFile(f"{path}: {one.metric} of {one.of[:40]} is measured and was never predicted")
    return Ledger(tuple(predictions), tuple(measured), tail)


def _append(path: Path, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Write lines behind those of the file, all at once; returns them."""
    tail = load_ledger(path).tail if path.exists() else _FIRST
    lines = []
    for entry in entries:
        line = json.dumps({"previous": tail, **entry}, allow_nan=False, sort_keys=True)
        if len(line) > MAX_LINE:
            raise InvalidInput(f"{path}: a line of {len(line)} characters, at most {MAX_LINE}")
        lines.append(line)
        tail = _digest(line)[:16]
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InvalidFile(f"{path}: it is not a regular file")
            os.write(handle, "".join(f"{line}\n" for line in lines).encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be written ({error.strerror or error}): choose another file") from None
    return lines


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _entry(line: str, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise InvalidFile(f"{where}: {len(line)} characters, at most {MAX_LINE}")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidFile(f"{where}: no JSON: is this a ledger of predictions?") from None
    if not isinstance(entry, dict) or entry.get("kind") not in ("predicted", "measured"):
        raise InvalidFile(f"{where}: neither a prediction nor a measurement: is this a ledger of predictions?")
    return entry


def _prediction(entry: dict[str, Any], name: str, where: str) -> Prediction:
    subject, metrics = entry.get("subject"), entry.get("metrics")
    if not isinstance(subject, dict) or not isinstance(metrics, dict) or not metrics:
        raise InvalidFile(f"{where}: a prediction has a subject and metrics")
    found = {}
    for metric, told in metrics.items():
        try:
            value, interval, rests_on = told
            ends = None if interval is None else (_number(interval[0]), _number(interval[1]))
            found[metric] = Predicted(_number(value), ends, _text(rests_on))
        except (TypeError, ValueError, IndexError, InvalidInput) as error:
            raise InvalidFile(f"{where}: {metric[:60]!r} is not a number with its interval ({error})") from None
    try:
        told = {_text(key): _text(value) for key, value in subject.items()}
        return Prediction(name, _text(entry.get("date")), _text(entry.get("release")), told, found)
    except TypeError:
        raise InvalidFile(f"{where}: subject, date and release are texts") from None


def _measured(entry: dict[str, Any], where: str) -> Entered:
    try:
        of, metric, date = (_text(entry.get(key)) for key in ("of", "metric", "date"))
        return Entered(of, metric, _number(entry.get("value")), date)
    except (TypeError, ValueError) as error:
        raise InvalidFile(f"{where}: no measurement ({error})") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is no text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise TypeError(f"{str(value)[:60]!r} is no number")
    return float(value)
