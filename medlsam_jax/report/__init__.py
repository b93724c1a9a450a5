"""One page of a folder of results: a cohort's, an evaluation's or both, worst cases first, with their pictures."""
