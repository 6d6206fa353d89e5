"""What FIFO lanes cannot say, event by event: every mode of `simulator.modes`, compiled; SimPy is its definition."""
