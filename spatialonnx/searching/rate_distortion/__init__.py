"""The joint search: MACs saved against the divergence of the logits."""
