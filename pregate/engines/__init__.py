"""Engines' own words: one table of their flags, what writes them for a card, and what reads them of a row."""
