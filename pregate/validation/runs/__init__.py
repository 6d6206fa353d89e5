"""Cases that were predicted, run: one, a group, a validation that goes on; and what is recorded of them."""
