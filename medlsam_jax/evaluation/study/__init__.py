"""The papers' tables on any labelled scans: what each asks, the work, and the report."""
