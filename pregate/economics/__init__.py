"""What a design costs to run: money and energy from what it takes, every assumption stated with its source."""
