"""Values of a prediction plan: patterns, masks, MACs and accuracy bounds."""
