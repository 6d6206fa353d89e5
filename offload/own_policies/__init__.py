"""Policies of a user's own: a file of Python, read and executed once, named as presets are, and asked as they are."""
