"""Collections of files: opening many of them concurrently, and the outcome of each."""
