"""Searches: which machine, policy and settings are the cheapest or fastest, under constraints.

Points are evaluated as a sweep evaluates them; what is here chooses the points and judges them.
"""
