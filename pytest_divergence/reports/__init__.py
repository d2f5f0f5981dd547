"""Views of a run, one file each: they show what a record holds, and decide nothing."""
