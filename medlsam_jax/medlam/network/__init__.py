"""MedLAM: its modules, their convolution, and the names of the published file."""
