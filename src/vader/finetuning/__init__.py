"""Learning from labels: heads, the pixels they see, nested subsets, augmentation."""
