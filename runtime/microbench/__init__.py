"""What a machine does, one thing at a time: the samples that a fit is made of."""
