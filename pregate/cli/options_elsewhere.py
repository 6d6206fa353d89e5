"""Options as engines and other programs call them, and what they are called here."""

from __future__ import annotations

from collections.abc import Collection

_ELSEWHERE = {
    "--hardware": ("--gpu", "--gpus", "--card", "--device", "--machine", "--accelerator", "--hw"),
    "--host": ("--cpu", "--processor"),
    "--stack": ("--engine", "--framework", "--runtime", "--software", "--server"),
    "--formats": ("--quant", "--quantization", "--quantisation", "--format-weights", "--precision"),
    "--dram": ("--ram", "--memory", "--host-memory"),
    "--hbm": ("--vram", "--gpu-memory"),
    "--input-tokens": ("--context", "--ctx", "--ctx-size", "--prompt", "--prompt-tokens", "--isl", "--input-len", "-c"),
    "--output-tokens": ("--generate", "--max-tokens", "--osl", "--output-len", "--n-predict", "-n"),
    "--concurrency": ("--batch", "--batch-size", "--requests", "--users", "--slots", "-np"),
    "--batch": ("--concurrency", "--batch-size", "--users"),
    "--policies": ("--policy", "--design", "--designs"),
    "--policy": ("--policies", "--design", "--designs"),
    "--rates": ("--rate", "--qps", "--rps", "--request-rate"),
    "--rate": ("--rates", "--qps", "--rps", "--request-rate"),
}
"""By option of ours, what else says the same."""

_AS_SET = {
    "host=NAME": ("--host", "--cpu", "--processor"),
    "link=NAME": ("--link", "--pcie"),
    "host.dram_bytes=64GB": ("--dram", "--ram", "--memory", "--host-memory"),
}
"""By what `--set` says of a machine, the options of other commands and programs that say the same."""

_SHARING = (
    "--tp",
    "-tp",
    "--tensor-parallel-size",
    "--ep",
    "--ep-size",
    "--enable-expert-parallel",
    "--pp",
    "--pipeline-parallel-size",
    "--dp",
    "--data-parallel-size",
)
"""Options that say how several cards share a model."""


_OF_FILE = ("--hardware", "--policies", "--axis", "--axes", "--trace", "--stack", "--formats", "--set", "--batch")
"""Options of other commands that a sweep reads from its file."""


_OF_MACHINES = ("--hardware", "--host", "--cpu", "--processor", "--link")
_HERE = ("run", "measure", "generate")
"""Commands that run on the machine that is there, which options of a machine say nothing to."""


def called_here(option: str, known: Collection[str], command: str = "") -> str:
    """What to write in place of `option` for a command whose options are `known`; "" where nobody calls it so."""
    name = option.partition("=")[0]
    if command == "sweep" and name in _OF_FILE and name not in known:
        return "a sweep takes a file that says it, such as examples/ten-thousand-machines.yaml"
    if name in _SHARING and "--hardware" in known:
        return (
            "several cards are --hardware '8x NAME' --stack vllm, designs say what they share (docs/tensor-parallel.md)"
        )
    if name in _OF_MACHINES and command in _HERE:
        return f"{command} runs on this machine, as it is; `pregate simulate` asks another (--hardware)"
    ours = next((here for here, others in _ELSEWHERE.items() if name in others and here in known), "")
    if ours or "--set" not in known:
        return f"it is {ours} here" if ours else ""
    part = next((part for part, others in _AS_SET.items() if name in others), "")
    whole = " (or --hardware 'RTX 4090 + 9950X 96GB')" if part.startswith("host") and "--hardware" in known else ""
    return f"it is --set {part} here{whole}" if part else ""
