"""What a search says of behaviours: from answers to suspects, tests, causes and counts."""
