"""What a search says of behaviours: answers, n-grams, traits, suspects, tests, causes, counts."""
