"""A machine with measured kernels."""

from __future__ import annotations

from hwmodels.kernels.roofline import GemmTable

TABLE = GemmTable(
    "fp32", (1.0, 4.0), (4096.0, 65536.0), (0.25, 4.0), (((0.1, 0.2), (0.3, 0.4)), ((0.5, 0.6), (0.7, 0.8)))
)
