"""Measuring a network: metrics, statistics, evaluation and certification."""
