// An organ's box in the hands of a person: faces and extreme points that are dragged, and the way back.

export class Placed {
  // `organ`: as the server lists it; without a box there is nothing to move.
  constructor(organ) {
    this.organ = organ.name;
    this.low = [...organ.box[0]];
    this.high = [...organ.box[1]];
    this.points = organ.points ? organ.points.map((point) => [...point]) : null;
    this.history = [];
    this.sent = null; // how it was when the server was asked to paint in it
  }

  get isMoved() {
    return this.history.length > 0;
  }

  // Moved, and not on its way to the server: what would be lost with the page.
  get isUnsent() {
    return this.isMoved && !(this.sent?.depth === this.history.length && this.sent.said === JSON.stringify(this.said));
  }

  send() {
    this.sent = { depth: this.history.length, said: JSON.stringify(this.said) };
  }

  // What was sent has been painted: only moves made since count, and can be taken back.
  settle() {
    this.history.splice(0, this.sent?.depth ?? 0);
    this.sent = null;
  }

  remember() {
    this.history.push({ low: [...this.low], high: [...this.high], points: this.points?.map((point) => [...point]) ?? null });
  }

  undo() {
    const last = this.history.pop();
    if (last) Object.assign(this, last);
    return Boolean(last);
  }

  // `side`: "low" or "high". A face stays a voxel away from the one across, and the points that lie beyond it follow.
  moveFace(axis, side, value, voxelMm) {
    const bound = side === "low" ? Math.min(value, this.high[axis] - voxelMm) : Math.max(value, this.low[axis] + voxelMm);
    this[side][axis] = bound;
    this.#pullPoints();
  }

  // The faces go where the points say, a point being the middle of a voxel.
  movePoint(number, mm, spacing) {
    const before = this.#extent();
    this.points[number] = [...mm];
    const after = this.#extent();
    for (const axis of [0, 1, 2]) {
      if (after.low[axis] !== before.low[axis]) this.low[axis] = after.low[axis] - spacing[axis] / 2;
      if (after.high[axis] !== before.high[axis]) this.high[axis] = after.high[axis] + spacing[axis] / 2;
    }
  }

  #extent() {
    const of = (pick) => [0, 1, 2].map((axis) => pick(...this.points.map((point) => point[axis])));
    return { low: of(Math.min), high: of(Math.max) };
  }

  #pullPoints() {
    for (const point of this.points ?? []) {
      for (const axis of [0, 1, 2]) point[axis] = Math.min(Math.max(point[axis], this.low[axis]), this.high[axis]);
    }
  }

  get said() {
    return { box: [this.low, this.high], points: this.points };
  }
}
