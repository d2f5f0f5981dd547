"""Pairs of models made as people make them, to measure verdicts with: see benchmarks/pairs.py."""
