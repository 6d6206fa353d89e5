"""What a kernel takes by its shape: forms with a few constants, fitted from tables of measured kernels."""
