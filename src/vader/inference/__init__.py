"""Models on images of your own: embed, show, propagate, index and search."""
