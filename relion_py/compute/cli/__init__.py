"""The programs (relion_refine, relion_import, ...): command lines over the library."""
