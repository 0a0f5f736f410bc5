"""Use models on your own images: embed, show, propagate, index and search."""
