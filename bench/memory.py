"""Seconds and peak GiB of segmenting a 512 x 512 x 400 scan; prints them, for `bench.stages_paint.memory`."""

import time

import numpy as np

import medlsam_jax as ml
from bench.timing import peak_memory_gib
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.volume import paint_volume


def main() -> None:
  rng = np.random.default_rng(0)
  array = np.full((400, 512, 512), -1000, np.float32)
  array[:, 100:400, 80:430] = rng.normal(40, 15, (400, 300, 350))
  scan = Volume(array, Grid((400, 512, 512), np.diag([0.8, 0.8, 1.5, 1.0])), "<block>")
  boxes = {f"organ_{i}": [Box((180.0, 150.0 + 60 * i, 150.0), (219.0, 200.0 + 60 * i, 260.0))] for i in range(3)}
  values = {organ: number for number, organ in enumerate(boxes, 1)}
  began = time.perf_counter()
  paint_volume(scan, boxes, values, Predictor(ml.load("litemedsam")))
  print(time.perf_counter() - began, peak_memory_gib())


if __name__ == "__main__":
  main()
