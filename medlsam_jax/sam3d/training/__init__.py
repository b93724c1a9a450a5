"""Training of adapters on labelled scans."""
