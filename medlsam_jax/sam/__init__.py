"""The SAM family: slices, prompts, predictor, everything mode, volumes slice by slice."""
