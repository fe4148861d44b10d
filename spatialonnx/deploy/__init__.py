"""Deploying masked models."""
