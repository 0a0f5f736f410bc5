"""Image retrieval by pixel: an index over the pixels of a collection, queries of it, and a page to browse it."""
