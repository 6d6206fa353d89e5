"""Answers to a miss: fetched, computed by the host, in parts, in fewer bits, left out, or another one instead.

An answer is a `MissAction` for each missing expert, chosen by counts and by costs that a design was given before it
began; no clock. What is brought before it is missed is `offload.prefetching`.
"""
