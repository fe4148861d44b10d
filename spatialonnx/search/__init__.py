"""The search: which plan saves the most MACs while accuracy falls by no more than eps."""
