"""The cards of clouds' instances: `g6e.xlarge`, `p4d.24xlarge`, `a2-highgpu-1g`, `Standard_NC24ads_A100_v4`.

An instance has a share of a processor, and nobody says how much of its memory's rate.

Sources (read 2026-12-01): RAPIDS, source/cloud/aws/index.md (p3, p4d, p5, g4dn, g5, g6); pytorch/torchx, pull requests
969 (g6e) and 995 (p5en); Hugging Face's documentation of Microsoft Azure, azure-ai/hardware (NC, ND); skypilot's
gcp_catalog.py (a2-highgpu, a2-megagpu); GoogleCloudPlatform/cluster-toolkit release 1.44.1 (a3-ultragpu) and
ai-infra-cluster-provisioning (a2, a3). Entered from knowledge: the form of a card (SXM, PCIe, NVL), p4de, p5e, p6, gr6,
a4, NV, ND of H200, V100 of Azure, and g2.
"""

from __future__ import annotations

import re

_AWS_SIZES = {"12": 4, "24": 4, "48": 8, "metal": 8}
"""Cards of sizes of g4dn, g5, g6 and g6e that have more than one."""
_ONE_OF_AWS = re.compile(
    r"\b(?:ml\.)?(?P<family>g4dn|g5|g6e|g6|gr6|p3|p3dn|p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300)\."
    r"(?:(?P<size>\d{1,2})?xlarge|(?P<metal>metal))\b",
    re.IGNORECASE,
)
_AWS = {"g4dn": "t4", "g5": "a10g", "g6": "l4", "gr6": "l4", "g6e": "l40s"}
_AWS_FIXED = {
    "p3.2": "v100-sxm2-16gb", "p3.8": "4x v100-sxm2-16gb", "p3.16": "8x v100-sxm2-16gb", "p3dn.24": "8x v100-sxm2-32gb",
    "p4d.24": "8x a100-sxm4-40gb", "p4de.24": "8x a100-sxm4-80gb", "p5.4": "h100-sxm", "p5.48": "8x h100-sxm",
    "p5e.48": "8x h200-sxm", "p5en.48": "8x h200-sxm", "p6-b200.48": "8x b200", "p6-b300.48": "8x b300",
}  # fmt: skip
_OF_GOOGLE = re.compile(
    r"\b(?P<family>a2-highgpu|a2-megagpu|a2-ultragpu|a3-highgpu|a3-megagpu|a3-edgegpu|a3-ultragpu|a4-highgpu)-"
    r"(?P<n>\d{1,2})g\b|\bg2-standard-(?P<cores>\d{1,2})\b",
    re.IGNORECASE,
)
_GOOGLE = {
    "a2-highgpu": "a100-sxm4-40gb", "a2-megagpu": "a100-sxm4-40gb", "a2-ultragpu": "a100-sxm4-80gb",
    "a3-highgpu": "h100-sxm", "a3-megagpu": "h100-sxm", "a3-edgegpu": "h100-sxm", "a3-ultragpu": "h200-sxm",
    "a4-highgpu": "b200",
}  # fmt: skip
_G2 = {"4": 1, "8": 1, "12": 1, "16": 1, "32": 1, "24": 2, "48": 4, "96": 8}
_OF_AZURE = re.compile(
    r"\b(?:Standard_)?(?P<size>N[CDV]\d{1,2}[a-z]{0,6})(?P<card>_A100|_H100|_H200|_T4|_A10)?_v(?P<version>\d)\b",
    re.IGNORECASE,
)
_AZURE = {
    "nc24ads_a100_v4": "a100-pcie-80gb", "nc48ads_a100_v4": "2x a100-pcie-80gb", "nc96ads_a100_v4": "4x a100-pcie-80gb",
    "nc40ads_h100_v5": "h100-nvl", "nc80adis_h100_v5": "2x h100-nvl", "nc4as_t4_v3": "t4", "nc8as_t4_v3": "t4",
    "nc16as_t4_v3": "t4", "nc64as_t4_v3": "4x t4", "nv36ads_a10_v5": "a10", "nv72ads_a10_v5": "2x a10",
    "nd96asr_v4": "8x a100-sxm4-40gb", "nd96amsr_a100_v4": "8x a100-sxm4-80gb", "nd96isr_h100_v5": "8x h100-sxm",
    "nd96isr_h200_v5": "8x h200-sxm", "nc6s_v3": "v100-pcie-16gb", "nc12s_v3": "2x v100-pcie-16gb",
    "nc24s_v3": "4x v100-pcie-16gb", "nc24rs_v3": "4x v100-pcie-16gb", "nd40rs_v2": "8x v100-sxm2-32gb",
}  # fmt: skip


def cards_of_instance(text: str) -> tuple[str, str]:
    """The instance that a name has in it, and its cards as we call them, `8x a100-sxm4-40gb`; "" twice of any other."""
    text = text[:200]
    if (found := _ONE_OF_AWS.search(text)) is not None:
        family, size = found["family"].lower(), found["size"] or ("metal" if found["metal"] else "")
        fixed = _AWS_FIXED.get(f"{family}.{size}", "")
        n = _AWS_SIZES.get(size, 1)
        cards = fixed or (f"{n}x {_AWS[family]}" if n > 1 else _AWS.get(family, ""))
        return (found[0], cards) if cards else ("", "")
    if (found := _OF_GOOGLE.search(text)) is not None:
        n, card = (
            (_G2.get(found["cores"], 0), "l4")
            if found["cores"]
            else (int(found["n"]), _GOOGLE[found["family"].lower()])
        )
        return (found[0], f"{n}x {card}" if n > 1 else card) if n else ("", "")
    if (found := _OF_AZURE.search(text)) is not None:
        cards = _AZURE.get(found[0].lower().removeprefix("standard_"), "")
        return (found[0], cards) if cards else ("", "")
    return "", ""
