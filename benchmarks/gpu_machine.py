"""What a machine is, printed before anything is timed on it: device, driver, versions, memory of the host.

    python -m benchmarks.gpu_machine BACKEND

A virtual machine's memory can grow as it is used, while the runtime takes no more than is free: such memory is used
once here, so that it is there.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from runtime.machine.device import describe_device, software

PACKAGES = (
    "numpy", "scipy", "llvmlite", "simpy", "yaml", "safetensors", "typer", "rich", "matplotlib", "xarray", "h5py",
)  # fmt: skip
USED_BYTES = 72 << 30
"""Host memory that the largest models of the suite take."""

BLOCK_BYTES, LEAST_BYTES = 2 << 30, 4 << 30


def main(backend: str) -> None:
    """Print it all."""
    for name, value in {**software(), **describe_device(backend)}.items():
        print(f"{name}: {value}")
    for name in PACKAGES:
        here = importlib.util.find_spec(name) is not None
        print(f"{name}: {version('pyyaml' if name == 'yaml' else name) if here else 'missing'}")
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False)
    print(f"host memory: {memory('MemTotal') / 1e9:.1f} GB, {memory('MemAvailable') / 1e9:.1f} available")
    if backend == "cuda" and memory("MemAvailable") < USED_BYTES:
        grow()
        print(f"after use: {memory('MemTotal') / 1e9:.1f} GB, {memory('MemAvailable') / 1e9:.1f} available")


def memory(key: str) -> int:
    """Bytes of an entry of /proc/meminfo; 0 where there is none."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def grow() -> None:
    """Use memory for as long as more of it is there, then give all of it back."""
    blocks: list[torch.Tensor] = []
    while len(blocks) * BLOCK_BYTES < USED_BYTES and memory("MemAvailable") > LEAST_BYTES:
        blocks.append(torch.zeros(BLOCK_BYTES, dtype=torch.uint8).fill_(1))


if __name__ == "__main__":
    from docs.script_arguments import given

    main(*given(__doc__, "BACKEND"))
