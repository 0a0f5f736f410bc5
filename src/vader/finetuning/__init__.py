"""Learning from labels: heads, training pixels, nested subsets, augmentation."""
