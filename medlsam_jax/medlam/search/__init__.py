"""Where organs are in a scan, and how far to trust that."""
