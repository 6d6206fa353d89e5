"""Engines' own words: one table of their flags, what writes them for a card, and what reads them of a row.

Names of machines and models as people write them are `pregate.spellings`.
"""
