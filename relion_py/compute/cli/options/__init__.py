"""Flag tables of the programs, cheap to import."""
