"""Rendered scenes whose every label is known: images, clips, and the folder layouts of real data sets."""
