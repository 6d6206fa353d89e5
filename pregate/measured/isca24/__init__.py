"""Pre-gated MoE (ISCA 2024) as published: its rows, the routing behind them, the fit of its machine, predictions."""
