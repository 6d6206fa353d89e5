"""The machine: claims of datasheets (`specs/`) and stacks (`stacks/`), measurements (`fits/`), op -> seconds (`cost`).

A `platform` is a machine, a software stack and, where there is one, a fit; `figures` are its numbers by dotted key,
one or many of each; `cost` prices works with them, by `kernels` (shares of a roofline) or `laws` (fitted by shape),
and `calibrate` makes fits. A number is a `quantity` with a unit and a source. Nothing here knows a policy or the
order of ops.
"""
