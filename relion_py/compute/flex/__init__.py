"""How the bodies of particles move against each other, from a multi-body refinement (relion_flex_analyse)."""
