"""Bayesian polishing: the motion of every particle, and particles summed along it (Zivanov et al. 2019)."""
