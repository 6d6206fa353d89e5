"""Routing that is made up: from dials, with an exact number of active experts, or as a recorded trace has it."""
