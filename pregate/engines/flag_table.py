"""The one table of engines' flags, `flags.yaml`: what each says, by engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidInput
from traces.foundation.documents import Section, read_yaml

FLAGS_FILE = Path(__file__).parent / "flags.yaml"

NOTHING = "nothing"
"""What a flag says that nothing here depends on."""

HOST_KERNELS: Mapping[str, str] = ReadOnly({"bf16": "BF16", "fp8": "FP8", "int4": "RAWINT4", "mxfp4": "MXFP4"})
"""`--kt-method` by the start of the name of a format that is published so."""

_LENT = (NOTHING, "power_limit", "clock", "no_graphs", "prompt_threads")
"""What forks have as what they forked."""

_SWITCHED = ("0", "1", "on", "off", "auto")


@dataclass(frozen=True, slots=True)
class Flag:
    """`name`: as cards write it; `says`: what, in words that engines share; `n_words`: that follow it, -1 as many as do
    before the next flag. `switch`: a word that turns it on or off may follow. `noted`: what a row that has it (of a
    switch: turned off) is told. `alone`: its value where none follows; "" where one must.
    """

    name: str
    says: str
    n_words: int
    switch: bool
    noted: str = ""
    alone: str = ""

    def takes(self, words: list[str]) -> str:
        """The value of the flag, taken from the front of `words`; "" without one. Raises `InvalidInput` without it."""
        if self.switch and words and words[0] in _SWITCHED:
            return words.pop(0)
        if not self.n_words:
            return ""
        if self.alone and (not words or words[0].startswith("-")):
            return self.alone
        if not words:
            raise InvalidInput(f"policy: flag {self.name} has no value")
        taken = [words.pop(0)]
        while self.n_words < 0 and words and not words[0].startswith("-"):
            taken.append(words.pop(0))
        return " ".join(taken)


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The flags of one engine. `read`: by every spelling; `written`: the names of those that cards write, by what they
    say. `stacks` are the engine, of which those of `output_is_a_layer` count the output as one, and those of
    `pins_placed` hold tensors that are placed on the host in page-locked memory where no file is mapped, as they hold
    layers there. `experts_on_host`: the host computes all experts where no flag says which. `capability`: of an NVIDIA
    card at least, by the start of the format of experts, "any" for all. `refused`: by flag why it cannot be said.
    `launch_without_graphs`: what the host takes for a kernel where passes are no graphs, as `stack.launch_s` has it.
    `step_between`: what the host takes between two passes where it schedules none ahead, as `stack.step_s` has it.
    `benchmark_draws`: where its own benchmark draws the tokens at random that it feeds; "" where it has none that does.
    """

    engine: str
    stacks: tuple[str, ...]
    output_is_a_layer: tuple[str, ...]
    pins_placed: tuple[str, ...]
    experts_on_host: bool
    read: Mapping[str, Flag]
    written: Mapping[str, str]
    capability: Mapping[str, float]
    refused: Mapping[str, str]
    benchmark_draws: str = ""
    launch_without_graphs: str = ""
    step_between: str = ""

    def why_refused(self, name: str) -> str:
        """Why a flag cannot be said; "" of another. Names may end in `*`."""
        return next((why for known, why in self.refused.items() if fnmatchcase(name, known)), "")

    def words(self, says: str, value: object = None) -> str:
        """What a card writes to say so: `-ub 512`."""
        name = self.written[says]
        return name if value is None else f"{name} {value}"

    def runs_on(self, capability: str, format: str) -> bool:
        """Whether it runs experts in `format` on a card of `capability` ("8.6"; on others than NVIDIA's: all)."""
        return not capability[:1].isdigit() or float(capability) >= self.least_capability(format)

    def least_capability(self, format: str) -> float:
        """The least capability of an NVIDIA card on which it runs experts in `format`; 0: any."""
        asked = [least for start, least in self.capability.items() if start == "any" or format.startswith(start)]
        return max(asked, default=0.0)

    def says(self, what: str) -> bool:
        """Whether a card can say so."""
        return what in self.written


@cache
def engines() -> Mapping[str, EngineFlags]:
    """Every engine of the table, by name."""
    table = read_yaml(FLAGS_FILE)
    found = dict[str, EngineFlags]()
    shared = _flags(table.section("any").section("flags"))
    for engine, section in table.sections():
        if engine != "any":
            lender = section.text("fork_of", "")
            found[engine] = _engine(engine, section, found.get(lender), shared)
    return ReadOnly(found)


def engine_of(stack: str) -> EngineFlags | None:
    """The engine that `stack` is; None where the table has none."""
    return next((one for one in engines().values() if stack in one.stacks), None)


def _flags(section: Section) -> dict[str, Flag]:
    """Flags by every spelling."""
    read: dict[str, Flag] = {}
    for name, entry in section.sections():
        switch = bool(entry.take("switch", optional=True))
        flag = Flag(
            name, entry.text("says"), entry.integer("words", 1, minimum=-1), switch, entry.text("noted", ""),
            entry.text("alone", ""),
        )  # fmt: skip
        entry.text("is")
        read |= dict.fromkeys((name, *(entry.take("also", optional=True) or ())), flag)
        entry.done()
    return read


def _engine(engine: str, section: Section, lender: EngineFlags | None, shared: Mapping[str, Flag]) -> EngineFlags:
    read = dict(shared) if lender is None else {name: flag for name, flag in lender.read.items() if flag.says in _LENT}
    refused = {} if lender is None else dict(lender.refused)
    written: dict[str, str] = {}
    for how, names in section.section("ignored").unread().items():
        read |= {name: Flag(name, NOTHING, int(how == "valued"), how == "switched") for name in names.split()}
    for why, names in section.section("refused").unread().items():
        refused |= dict.fromkeys(names.split(), why)
    for part in ("flags", "of_rows"):
        found = _flags(section.section(part))
        read |= found
        if part == "flags":
            written |= {flag.says: flag.name for flag in found.values()}
    launch, between = _stated(section, "without_graphs", "launch"), _stated(section, "scheduled_between", "step")
    stacks = tuple(section.take("stacks"))
    counting, pinning = (tuple(section.take(key, optional=True) or ()) for key in ("output_is_a_layer", "pins_placed"))
    on_host = section.flag("experts_on_host")
    table = section.optional_section("capability")
    least = {} if table is None else {format: table.number(format, minimum=0) for format in table.remaining()}
    return EngineFlags(
        engine,
        stacks,
        counting,
        pinning,
        on_host,
        ReadOnly(read),
        ReadOnly(written),
        ReadOnly(least),
        ReadOnly(refused),
        section.text("benchmark_draws", ""),
        launch or ("" if lender is None else lender.launch_without_graphs),
        between,
    )


def _stated(section: Section, name: str, what: str) -> str:
    """What a section of an engine states with its source, as text; "" without the section."""
    stated = section.optional_section(name)
    if stated is None:
        return ""
    stated.text("source")
    return stated.text(what)
