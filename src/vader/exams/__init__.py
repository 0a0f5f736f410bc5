"""What frozen dense features are worth: arrays in, numbers out."""
