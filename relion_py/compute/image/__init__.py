"""Two- and three-dimensional image operations: CTF, masks, filters, spectra."""
