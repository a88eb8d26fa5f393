"""CTF refinement: what the optics did to particles, told by a map that is already good (relion_ctf_refine)."""
