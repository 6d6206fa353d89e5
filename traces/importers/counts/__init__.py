"""How often experts were chosen, in the forms that recorders count it in: popularity, not routing."""
