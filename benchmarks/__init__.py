"""How fast the project is, as ratios taken in one run: `make benchmarks`."""
