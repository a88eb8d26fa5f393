"""What is done with finished maps, pictures and lists: post-processing, masks, and tools for files."""
