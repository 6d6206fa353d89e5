"""What is compiled to machine code, and where things are in its arrays: plain Python that takes arrays and numbers.

Each kernel is the twin of a room or a module that its first line names. Nothing here imports what calls it.
"""
