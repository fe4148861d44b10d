"""Torch networks: training, export, fine-tuning. The only place of the repository with torch."""
