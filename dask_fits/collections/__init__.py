"""Many files: opened at the same time, and what became of each."""
