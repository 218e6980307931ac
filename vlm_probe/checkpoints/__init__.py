"""Layouts of checkpoints on disk."""
