"""Engines, which compute the work units of a run: one file each."""
