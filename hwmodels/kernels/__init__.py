"""What kernels take: the share of the roofline that they achieve, their floors, and tiles of fused experts."""
