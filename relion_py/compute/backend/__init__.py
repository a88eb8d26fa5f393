"""The array seam: which library computes the kernels, on which device."""
