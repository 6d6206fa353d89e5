"""Kernels in a subset of Python, as machine code: numbers, arrays, loops and calls, no objects.

A kernel is a function of Python that runs as it stands; `translate.module_of` writes the same function as text of
LLVM, `machine_code.loaded` compiles that once and keeps it.
Whole numbers are of 64 bits, numbers of float64; arrays are C-ordered, of any dtype, and a row of one is an array too.
Before something is added to a number of an array of uint8 to uint32, `int()` is asked of it: NumPy would count on in
those bits.
"""
