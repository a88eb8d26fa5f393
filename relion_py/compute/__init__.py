"""How pictures become a map; a library that knows nothing of jobs, projects or windows."""
