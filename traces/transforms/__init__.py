"""Traces made of a trace: sequences side by side, drafts that are verified, a part to learn from, one to judge on."""
