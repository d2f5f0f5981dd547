"""Who computes the work units of a run: one engine a file."""
