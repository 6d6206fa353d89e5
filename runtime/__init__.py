"""Real time: back ends that execute a schedule with real memory, real copies and real matrix products.

A schedule becomes a program (`programs`, which knows no device), is tied to tensors (`loading`) and run (`run`) on
a back end. Nothing here predicts: measurements go to `hwmodels` as files, and fits come back as files.
"""
