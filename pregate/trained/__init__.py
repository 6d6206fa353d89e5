"""Trained models whose own gates choose: gates moved ahead and trained here, tokens made under every design."""
