"""Graphs: shapes, sites, and the passes that insert and fuse prediction ops."""
