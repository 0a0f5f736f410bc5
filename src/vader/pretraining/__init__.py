"""VADeR: views and matches, the contrast, the loop, and what watches over a run."""
