"""What was predicted, run on the machine at hand: a case, a group, one run alone; and what is recorded of it."""
