"""Deploying masked models: sites that gain become SpatialConv."""
