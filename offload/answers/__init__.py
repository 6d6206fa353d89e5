"""Answers to a miss: fetched, computed by the host, in parts, in fewer bits, left out, or another one instead."""
