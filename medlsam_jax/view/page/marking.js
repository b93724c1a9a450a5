// Six extreme points of an organ, one after the other: which face is next, in which plane, and what is wrong. No drawing.

export const FACES = [
  { key: "feet", title: "Feet", axis: 2, sign: -1, plane: "coronal", say: "the lowest point, towards the feet" },
  { key: "head", title: "Head", axis: 2, sign: 1, plane: "coronal", say: "the highest point, towards the head" },
  { key: "right", title: "Right", axis: 0, sign: 1, plane: "axial", say: "the point furthest to the patient’s right (left on the screen)" },
  { key: "left", title: "Left", axis: 0, sign: -1, plane: "axial", say: "the point furthest to the patient’s left (right on the screen)" },
  { key: "front", title: "Front", axis: 1, sign: 1, plane: "sagittal", say: "the foremost point (left on the screen)" },
  { key: "back", title: "Back", axis: 1, sign: -1, plane: "sagittal", say: "the hindmost point (right on the screen)" },
];
const HOW = {
  coronal: "Scroll with the wheel from front to back until it reaches furthest, then click it.",
  axial: "Scroll with the wheel from feet to head until it reaches furthest, then click it.",
  sagittal: "Scroll with the wheel from side to side until it reaches furthest, then click it.",
};

export class Marking {
  // `points`: of a face each, mm, where some are there already.
  constructor(organ, points = {}) {
    this.organ = organ;
    this.points = { ...points };
    this.history = [];
    this.isChanged = false;
    this.now = FACES.find((face) => !this.points[face.key])?.key ?? null;
  }

  // Of six points in any order: each face takes the one that lies furthest out.
  static of(organ, six) {
    const free = [...six];
    const points = {};
    for (const face of FACES) {
      free.sort((one, two) => face.sign * (two[face.axis] - one[face.axis]));
      points[face.key] = free.shift();
    }
    return new Marking(organ, points);
  }

  get face() {
    return FACES.find((face) => face.key === this.now) ?? null;
  }

  get count() {
    return Object.keys(this.points).length;
  }

  get isWhole() {
    return this.count === FACES.length;
  }

  get six() {
    return FACES.map((face) => this.points[face.key]);
  }

  // Puts the point of the face that is asked for, and asks for the next one that is missing.
  place(mm) {
    if (!this.now) return;
    this.move(this.now, mm);
    this.now = FACES.find((face) => !this.points[face.key])?.key ?? null;
  }

  move(key, mm) {
    this.remember();
    this.points = { ...this.points, [key]: [...mm] };
  }

  // While it is dragged: what is remembered is the place before.
  drag(key, mm) {
    this.points = { ...this.points, [key]: [...mm] };
    this.isChanged = true;
  }

  remember() {
    this.history.push({ points: this.points, now: this.now });
    this.isChanged = true;
  }

  undo() {
    const last = this.history.pop();
    if (last) Object.assign(this, last);
    return Boolean(last);
  }

  // The box of what is there: known faces alone.
  box() {
    const all = Object.values(this.points);
    if (!all.length) return null;
    const of = (pick) => [0, 1, 2].map((axis) => pick(...all.map((point) => point[axis])));
    return { low: of(Math.min), high: of(Math.max) };
  }

  // Points that lie further out than the point of that face.
  wrong(slackMm) {
    const said = [];
    for (const face of FACES) {
      const own = this.points[face.key];
      if (!own) continue;
      for (const other of FACES) {
        const point = this.points[other.key];
        if (point && other !== face && face.sign * (point[face.axis] - own[face.axis]) > slackMm[face.axis]) {
          said.push(`“${other.title}” lies further ${WHERE[face.key]} than “${face.title}”: drag one of them`);
        }
      }
    }
    return said;
  }

  hint() {
    return this.face ? HOW[this.face.plane] : "Drag a point to correct it. Then save the template, or segment from these points.";
  }
}

const WHERE = {
  feet: "down", head: "up", right: "to the right", left: "to the left", front: "to the front", back: "to the back",
};
