"""Evaluate encoders with named protocols, and compare the reports."""
