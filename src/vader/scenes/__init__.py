"""Rendered scenes with exact ground truth: images, clips, and the folder layouts of real data sets."""
