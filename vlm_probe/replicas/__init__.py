"""Trained miniatures of the paper's ablation grid: recipe, grid and shipped weights."""
