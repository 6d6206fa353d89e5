"""The formats that a quantisation gives to the parts of a model: where it stands, what it converts, and to what."""
