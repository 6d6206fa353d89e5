"""What there is of recorded traces: counted from their files, without numpy, so that a listing is there at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traces.phase import Phase
from traces.recorded import recorded_names, recorded_path


@dataclass(frozen=True, slots=True)
class RecordedListing:
    """One trace that ships: its size, and where it comes from. `top_k`: experts that a token chooses in a layer."""

    name: str
    model: str
    sequences: int
    prefill_tokens: int
    decode_tokens: int
    moe_layers: int
    experts: int
    top_k: int
    licence: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


def recorded_listing() -> list[RecordedListing]:
    """The traces that ship, by name."""
    return [_listed(name, path) for name in recorded_names() if (path := recorded_path(name)) is not None]


def _listed(name: str, path: Path) -> RecordedListing:
    """From the header of a safetensors file, and from two of its tensors."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()

        def tensor(key: str) -> bytes:
            low, high = header[key]["data_offsets"]
            file.seek(begin + low)
            return file.read(high - low)

        phases, sequences = tensor("phase"), tensor("sequence")
    said = json.loads(header["__metadata__"]["pregate"])
    _, n_layers, top_k = header["experts"]["shape"]
    origin = said["provenance"]
    return RecordedListing(
        name=name,
        model=origin["model"],
        sequences=len({sequences[at : at + 4] for at in range(0, len(sequences), 4)}),
        prefill_tokens=phases.count(Phase.PREFILL),
        decode_tokens=phases.count(Phase.DECODE),
        moe_layers=n_layers,
        experts=said["n_experts"],
        top_k=top_k,
        licence=origin["licence"],
        source=origin["source"],
    )
