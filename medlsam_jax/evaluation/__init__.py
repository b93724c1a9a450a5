"""Results against truth: the only reader of a query's truth. Scores, probe, prompt study, reports."""
