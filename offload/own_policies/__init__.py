"""Policies of a user's own: a file of Python, read and executed once, named as presets are, and asked as they are.

What such code raises or returns is checked here and in `offload.decoding.policy_answers`; nothing else trusts it.
"""
