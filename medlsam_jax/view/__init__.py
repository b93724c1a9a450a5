"""The page for people: look at a scan, mark six points, correct a box, let the bank grow; a function each."""
