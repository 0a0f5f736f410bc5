"""Exams on labelled pictures: linear probes, nearest neighbours, clusters."""
