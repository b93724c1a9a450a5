// The three planes in the page's frame, millimetres (x, y, z) towards the patient's right, front and head. All are shown
// as a radiologist has them: the patient's right at the left, and in the sagittal plane the front at the left. To the
// right of the screen each plane's first axis falls, upwards its second one rises.

export const PLANES = {
  axial: { title: "Axial", axes: [0, 1], along: 2, letters: ["R", "L", "A", "P"] },
  coronal: { title: "Coronal", axes: [0, 2], along: 1, letters: ["R", "L", "H", "F"] },
  sagittal: { title: "Sagittal", axes: [1, 2], along: 0, letters: ["A", "P", "H", "F"] },
};
export const NAMES = Object.keys(PLANES);
const SHARE_OF_LARGE = 0.64;
const LARGEST_ZOOM = 24;
const AIR_HU = -400;
const LOOK_EVERY = 3; // voxels

// A part of the screen that shows one plane; pixels are those of the canvas.
export class Tile {
  constructor(name, rectangle) {
    this.name = name;
    this.plane = PLANES[name];
    this.middle = [0, 0]; // mm along the plane's axes
    this.mmPerPixel = 1;
    this.place(rectangle);
  }

  place({ left, top, width, height }) {
    Object.assign(this, { left, top, width, height });
  }

  // Shows all between two corners, mm.
  fit({ low, high }) {
    const edges = this.plane.axes.map((axis) => high[axis] - low[axis]);
    this.middle = this.plane.axes.map((axis) => (low[axis] + high[axis]) / 2);
    this.whole = Math.max(edges[0] / this.width, edges[1] / this.height) * 1.06;
    this.mmPerPixel = this.whole;
  }

  // Low and high corner of what is seen, mm along the plane's axes.
  get seen() {
    const half = [(this.width * this.mmPerPixel) / 2, (this.height * this.mmPerPixel) / 2];
    return { low: [this.middle[0] - half[0], this.middle[1] - half[1]], high: [this.middle[0] + half[0], this.middle[1] + half[1]] };
  }

  toScreen(mm) {
    const [across, up] = this.plane.axes;
    return [
      this.left + this.width / 2 - (mm[across] - this.middle[0]) / this.mmPerPixel,
      this.top + this.height / 2 - (mm[up] - this.middle[1]) / this.mmPerPixel,
    ];
  }

  // A place on the screen, in the slice that `through` lies in.
  toMm([x, y], through) {
    const mm = [...through];
    mm[this.plane.axes[0]] = this.middle[0] - (x - this.left - this.width / 2) * this.mmPerPixel;
    mm[this.plane.axes[1]] = this.middle[1] - (y - this.top - this.height / 2) * this.mmPerPixel;
    return mm;
  }

  holds([x, y]) {
    return x >= this.left && y >= this.top && x < this.left + this.width && y < this.top + this.height;
  }

  // Nearer or further, while what lies under the pointer stays there.
  zoom(factor, [x, y]) {
    const before = this.toMm([x, y], [0, 0, 0]);
    this.mmPerPixel = Math.min(Math.max(this.mmPerPixel * factor, this.whole / LARGEST_ZOOM), this.whole * 1.5);
    const after = this.toMm([x, y], [0, 0, 0]);
    this.plane.axes.forEach((axis, number) => (this.middle[number] += before[axis] - after[axis]));
  }

  pan(dx, dy) {
    this.middle[0] += dx * this.mmPerPixel;
    this.middle[1] += dy * this.mmPerPixel;
  }
}

// One plane large, the others beside it.
export function layOut(large, width, height) {
  const wide = Math.round(width * SHARE_OF_LARGE);
  const half = Math.round(height / 2);
  const [first, second] = NAMES.filter((name) => name !== large);
  return {
    [large]: { left: 0, top: 0, width: wide - 1, height },
    [first]: { left: wide + 1, top: 0, width: width - wide - 1, height: half - 1 },
    [second]: { left: wide + 1, top: half + 1, width: width - wide - 1, height: height - half - 1 },
  };
}

// Corners of the body, mm: of what is no air. `hu` are the shown voxels, x fastest.
export function bodyOf(hu, { shown_shape: shape, shown_spacing_mm: spacing, shown_origin_mm: origin }) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (let z = 0; z < shape[2]; z += LOOK_EVERY) {
    for (let y = 0; y < shape[1]; y += LOOK_EVERY) {
      const row = shape[0] * (y + shape[1] * z);
      for (let x = 0; x < shape[0]; x += LOOK_EVERY) {
        if (hu[row + x] < AIR_HU) continue;
        [x, y, z].forEach((place, axis) => {
          if (place < low[axis]) low[axis] = place;
          if (place > high[axis]) high[axis] = place;
        });
      }
    }
  }
  const whole = low[0] > high[0];
  const ends = [whole ? [0, 0, 0] : low, whole ? shape : high].map((corner) => corner.map((place, axis) => origin[axis] + place * spacing[axis]));
  return { low: ends[0], high: ends[1] };
}

// The nearest voxel's middle, inside the scan.
export function snapped(mm, frame) {
  return mm.map((value, axis) => {
    const index = Math.min(Math.max(Math.round(value / frame.spacing_mm[axis]), 0), frame.shape[axis] - 1);
    return index * frame.spacing_mm[axis];
  });
}
