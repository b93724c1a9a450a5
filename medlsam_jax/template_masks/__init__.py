"""Masks of the templates laid over a scan: pictures of organs, registration, votes."""
