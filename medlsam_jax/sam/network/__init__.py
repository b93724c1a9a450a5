"""Encoders, prompt encoder, mask decoder, and the names of the published files."""
