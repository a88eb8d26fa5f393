"""Maximum-a-posteriori refinement of maps against particle images."""
