"""Label maps of what the painters give, organs numbered in the order of their boxes, for tests to ask by name."""

from medlsam_jax.io.labels import LabelMap
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.sam.volume import paint_volume
from medlsam_jax.template_masks.masks import paint_by_templates


def segment_volume(volume, boxes, predictor, settings=LITEMEDSAM, values=None, progress=None, propagation=None):
  values = numbered(boxes) if values is None else values
  array = paint_volume(volume, boxes, values, predictor, settings, propagation, progress)
  return LabelMap(array, volume.grid, {organ: values[organ] for organ in boxes})


def segment_by_templates(volume, boxes, crops, settings=None, values=None, progress=None):
  values = numbered(boxes) if values is None else values
  return LabelMap(paint_by_templates(volume, boxes, crops, values, settings, progress), volume.grid, values)


def numbered(boxes):
  return {organ: number for number, organ in enumerate(boxes, 1)}
