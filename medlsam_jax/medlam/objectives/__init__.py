"""Self-supervised losses, a file each."""
