"""What every room stands on: files and arguments from outside, files written whole, values that are kept; no model."""
