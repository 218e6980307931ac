"""What opens by name, and its weights."""
