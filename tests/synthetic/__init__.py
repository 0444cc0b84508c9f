"""What tests of several folders stand on without any training."""
