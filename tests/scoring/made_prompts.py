"""Prompts of many lengths and scripts, which are measured together and alone."""

from __future__ import annotations

PROMPTS = [
    "Hi",
    "How do I tie a knot that holds?",
    "List three rivers of Europe, one a line, with a word on each of them, and their length.",
    "Привет, 世界",
    "2 + 2 =",
    "Write a haiku about the sea in winter.",
]
