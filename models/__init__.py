"""Torch networks: training and export."""
