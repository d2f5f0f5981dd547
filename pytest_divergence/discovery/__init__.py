"""All that searches: soft prompts, training, strategies, selection, the run."""
