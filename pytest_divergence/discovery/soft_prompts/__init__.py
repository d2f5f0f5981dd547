"""Soft prompts: trained virtual tokens that drive two models apart, and the prompts they write."""
