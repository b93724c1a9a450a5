"""Thousands of scans: a manifest of what is done, stages that work beside each other, limits for a bad file."""
