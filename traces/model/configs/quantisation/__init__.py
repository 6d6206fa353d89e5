"""The formats that a quantisation gives to the parts of a model: where it is described, what it converts, and to what."""
