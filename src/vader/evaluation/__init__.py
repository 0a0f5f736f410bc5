"""Joins encoders, a protocol and data into a report: sitting, intervals, files, pages. `vader.evaluate` is the door."""
