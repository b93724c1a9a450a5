"""Crops of unlabelled scans, their views, the step, and the recipe."""
