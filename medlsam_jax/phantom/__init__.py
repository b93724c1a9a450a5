"""A made-up, labelled population for the demo, the tests and the first pre-training."""
