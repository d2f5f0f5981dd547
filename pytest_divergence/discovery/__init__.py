"""All that searches: the run and its steps, strategies, soft prompts, behaviours."""
