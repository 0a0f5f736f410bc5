"""Exams of labelled pictures: probes, nearest neighbours, clusters."""
