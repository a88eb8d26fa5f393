"""What a job is: declarations only; no Qt, no NumPy, no processes."""
