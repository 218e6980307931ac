"""What every layer would say."""
