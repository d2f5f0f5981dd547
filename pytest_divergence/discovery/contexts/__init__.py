"""Contexts of prompts: their files, how far the models part under them, and tests under them."""
