"""Rewards of stage III, as small decorated functions."""
