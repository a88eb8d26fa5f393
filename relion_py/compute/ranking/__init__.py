"""Scores of 2D class averages, and the choice of the good ones (relion_class_ranker)."""
