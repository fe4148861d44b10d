"""Optimising: all stages in a row, from a model to the fastest one that keeps the bound."""
