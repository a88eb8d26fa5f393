"""Estimation of the contrast transfer function of micrographs."""
