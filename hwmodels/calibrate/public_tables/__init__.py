"""Laws of kernels from public tables of measured ones: tables read, laws fitted and judged on what they have not seen.

What this machine was measured to do is fitted by the modules beside this room.
"""
