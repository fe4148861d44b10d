"""The search: the plan that saves the most MACs while the metric falls by at most eps."""
