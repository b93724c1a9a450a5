// Label maps, slice by slice: filled, as outlines, and which organ lies under the pointer.


const FILLED = 0.42;

export class Masks {
  // `buffer`: labels of each shown voxel, x fastest; `organs`: as the server lists them, `label` says which is whose.
  constructor(buffer, frame, organs) {
    this.shape = frame.shown_shape;
    this.spacing = frame.shown_spacing_mm;
    this.origin = frame.shown_origin_mm;
    const count = this.shape[0] * this.shape[1] * this.shape[2];
    this.data = buffer.byteLength === count ? new Uint8Array(buffer) : new Uint16Array(buffer);
    this.organs = new Map(organs.filter((each) => each.label).map((each) => [each.label, each]));
    this.kept = new Map();
  }

  at(mm) {
    const place = mm.map((value, axis) => Math.round((value - this.origin[axis]) / this.spacing[axis]));
    if (place.some((value, axis) => value < 0 || value >= this.shape[axis])) return null;
    return this.organs.get(this.data[place[0] + this.shape[0] * (place[1] + this.shape[1] * place[2])]) ?? null;
  }

  // The labels of one slice as they lie on the screen: columns from the left, rows from the top.
  #slice(plane, depth) {
    const [width, height] = plane.axes.map((axis) => this.shape[axis]);
    const slice = new Uint16Array(width * height);
    if (depth < 0 || depth >= this.shape[plane.along]) return { slice, width, height };
    const steps = [1, this.shape[0], this.shape[0] * this.shape[1]];
    const [across, up] = plane.axes.map((axis) => steps[axis]);
    let place = 0;
    for (let row = height - 1; row >= 0; row--) {
      let from = depth * steps[plane.along] + row * up + (width - 1) * across;
      for (let column = 0; column < width; column++, from -= across) slice[place++] = this.data[from];
    }
    return { slice, width, height };
  }

  #drawn(tile, depthMm) {
    const { along } = tile.plane;
    const depth = Math.round((depthMm - this.origin[along]) / this.spacing[along]);
    const old = this.kept.get(tile.name);
    if (old && old.depth === depth) return old;
    const cut = this.#slice(tile.plane, depth);
    const drawn = { depth, ...cut, outlines: outlines(cut.slice, cut.width, cut.height), pictures: new Map() };
    this.kept.set(tile.name, drawn);
    return drawn;
  }

  // How the slice's columns and rows lie on the screen.
  #transform(tile, drawn) {
    const corner = [0, 0, 0];
    tile.plane.axes.forEach((axis) => (corner[axis] = this.origin[axis] + (this.shape[axis] - 0.5) * this.spacing[axis]));
    const [left, top] = tile.toScreen(corner);
    const [across, up] = tile.plane.axes.map((axis) => this.spacing[axis] / tile.mmPerPixel);
    return new DOMMatrix([across, 0, 0, up, left, top]);
  }

  fill(context, tile, depthMm, isShown) {
    const drawn = this.#drawn(tile, depthMm);
    const key = [...this.organs].map(([label, organ]) => (isShown(organ) ? label : 0)).join();
    if (!drawn.pictures.has(key)) drawn.pictures.set(key, this.#picture(drawn, isShown));
    context.save();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = FILLED;
    context.transform(...parts(this.#transform(tile, drawn)));
    context.drawImage(drawn.pictures.get(key), 0, 0);
    context.restore();
  }

  #picture({ slice, width, height }, isShown) {
    const picture = new OffscreenCanvas(width, height);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = new Map([...this.organs].map(([label, organ]) => [label, isShown(organ) ? rgba(organ.colour) : 0]));
    for (let place = 0; place < slice.length; place++) if (slice[place]) pixels[place] = colours.get(slice[place]) ?? 0;
    picture.getContext("2d").putImageData(image, 0, 0);
    return picture;
  }

  outline(context, tile, depthMm, isShown, { thick = () => 1.5, dash = [] } = {}) {
    const drawn = this.#drawn(tile, depthMm);
    const transform = this.#transform(tile, drawn);
    context.save();
    context.setLineDash(dash);
    for (const [label, path] of drawn.outlines) {
      const organ = this.organs.get(label);
      if (!organ || !isShown(organ)) continue;
      const moved = new Path2D();
      moved.addPath(path, transform);
      context.strokeStyle = organ.colour;
      context.lineWidth = thick(organ);
      context.stroke(moved);
    }
    context.restore();
  }
}

const parts = (matrix) => [matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f];

// The border of each label of a slice as closed lines through the middles of pixels' edges, in columns and rows.
export function outlines(slice, width, height) {
  const edges = new Map(); // by label: from a corner of pixels to the next ones, the label to the right hand
  const across = width + 1;
  const edge = (label, from, to) => {
    if (!edges.has(label)) edges.set(label, new Map());
    const ways = edges.get(label);
    if (ways.has(from)) ways.get(from).push(to);
    else ways.set(from, [to]);
  };
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      const label = slice[place];
      if (!label) continue;
      const corner = row * across + column;
      if (row === 0 || slice[place - width] !== label) edge(label, corner, corner + 1);
      if (column === width - 1 || slice[place + 1] !== label) edge(label, corner + 1, corner + 1 + across);
      if (row === height - 1 || slice[place + width] !== label) edge(label, corner + 1 + across, corner + across);
      if (column === 0 || slice[place - 1] !== label) edge(label, corner + across, corner);
    }
  }
  return new Map([...edges].map(([label, ways]) => [label, lines(ways, across)]));
}

// Follows the edges from corner to corner until each was walked once.
function lines(ways, across) {
  const path = new Path2D();
  const middle = (from, to) => [((from % across) + (to % across)) / 2, (Math.floor(from / across) + Math.floor(to / across)) / 2];
  for (const start of ways.keys()) {
    while (ways.get(start).length) {
      let from = start;
      let isFirst = true;
      while (ways.get(from)?.length) {
        const to = ways.get(from).pop();
        if (isFirst) path.moveTo(...middle(from, to));
        else path.lineTo(...middle(from, to));
        isFirst = false;
        from = to;
      }
      path.closePath();
    }
  }
  return path;
}

function rgba(colour) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0; // as a little-endian word
}

