"""Where jobs live: a project directory that survives anything; no Qt, no arrays."""
