"""Files: STAR tables, MRC images, particle stacks."""
