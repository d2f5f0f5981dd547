"""Ways to propose prompts: one file each, one method each."""
