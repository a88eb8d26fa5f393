"""Where the reference data are, if they are here: golden files, real and simulated data sets."""

from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared"
