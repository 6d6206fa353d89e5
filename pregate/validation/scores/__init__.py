"""Predicted against measured, in numbers: errors, intervals, ranks, how far the times can be trusted, and a verdict."""
