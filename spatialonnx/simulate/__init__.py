"""Simulating plans: stored activations and incremental trials."""
