"""The device that `run` and `generate` execute on, and its options, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwmodels.quantity import parse_override
from pregate.cli import options
from pregate.cli.option_values import check_storage

if TYPE_CHECKING:
    from pregate.running.devices import Device


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """A back end, the memory and the link that it has, and where experts wait."""

    backend: options.BackendName = "auto"
    hbm: Annotated[str | None, typer.Option(help="HBM to use at most, such as 4GiB; default: what is free.")] = None
    link: Annotated[
        str | None, typer.Option(help="Link that the CPU back end imitates, such as 4GB/s; default: as fast as memory.")
    ] = None
    link_latency: Annotated[str | None, typer.Option(help="Fixed time of a copy over that link; default: 20us.")] = None
    tier: options.Tier = "dram"
    storage: Annotated[Path | None, typer.Option(help="A folder for the experts of --tier ssd.")] = None

    def check(self) -> None:
        """Raise `InvalidInput` for a folder of experts that do not wait there."""
        check_storage(self.tier, self.storage)

    def device(self, chunk: str | None = None, graphs: bool = False) -> Device:
        """The device; `chunk`: the size of parts that experts are copied in, `graphs` as of the option."""
        from pregate.running.devices import Device
        from runtime.backends.pacing import Link
        from runtime.microbench.session import LINK_LATENCY_S

        speed = None if self.link in (None, "memory") else parse_override(str(self.link), "bandwidth")
        default_s = 0.0 if speed is None else LINK_LATENCY_S
        latency_s = default_s if self.link_latency is None else parse_override(self.link_latency, "time")
        sizes = (None if text is None else int(parse_override(text, "size")) for text in (self.hbm, chunk))
        hbm_bytes, chunk_bytes = sizes
        there = Link(speed, latency_s)
        return Device(self.backend, hbm_bytes, there, there, self.storage, chunk_bytes, graphs)
