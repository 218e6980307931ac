"""From pictures and questions to tensors and layouts."""
