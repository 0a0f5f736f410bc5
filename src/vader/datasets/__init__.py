"""Labelled data sets, one file for each layout; all give frozen `Example`s. `opening.py` opens them by name."""
