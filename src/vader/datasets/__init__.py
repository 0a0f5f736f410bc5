"""Labelled sets of pictures, one file a layout, all giving one frozen `Example` at a time; `opening.py` is the door."""
