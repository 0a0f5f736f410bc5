"""VADeR pretraining: views and matches, the contrast, the loop, and the checks of a run."""
