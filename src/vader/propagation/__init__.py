"""What `propagate.py` needs: the masks that are given, the pictures of those found, and how far it is."""
