"""Trained experiments, and the tables they left."""
