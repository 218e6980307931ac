"""Running models: captures, many questions about few images, whole evaluations."""
