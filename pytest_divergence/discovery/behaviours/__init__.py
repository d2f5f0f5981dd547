"""Behaviours: answers, n-grams, traits, hypotheses, tests, causes, counts."""
