"""What kernels take: the share of the roofline that they achieve, their floors, and tiles of fused experts.

Of a stack's stated or fitted efficiencies; where whole tables of kernels were measured, `hwmodels.laws` takes their
place.
"""
