"""Convolution, norm, pooling and resizing of volumes, which every 3D network here is made of."""
