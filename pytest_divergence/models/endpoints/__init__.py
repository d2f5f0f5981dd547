"""Models that a server runs: what it is asked, what it tells, and whether it can be believed."""
