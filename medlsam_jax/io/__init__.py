"""Files to values and back: scans, label maps, points, boxes, previews, weights; written whole or not at all."""
