"""Localization: the network, the bank of templates, the search, and how the network is pre-trained."""
