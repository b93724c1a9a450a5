"""What marked scans leave behind once the network has seen them."""
