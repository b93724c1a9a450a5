"""What long work tells of how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all: points of a search, slices of a segmentation."""
