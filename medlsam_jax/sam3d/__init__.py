"""3DMedSAM: weights of a 2D SAM, kept as they are, adapted to volumes by parameters that are trained beside them."""
