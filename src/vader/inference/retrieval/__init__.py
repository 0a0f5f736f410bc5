"""Where else is this? An index over the pixels of a collection, queries of it, and a page to click through."""
