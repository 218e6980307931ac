"""Real pretrained models small enough for a laptop, from the package registry."""
