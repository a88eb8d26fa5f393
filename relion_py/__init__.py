"""relion_py: determination of protein structures from cryo-electron micrographs."""

__version__ = "0.1.0"
