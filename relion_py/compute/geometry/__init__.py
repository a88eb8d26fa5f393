"""Directions and rotations: Euler angles, point groups, HEALPix sampling."""
