// The state of what is looked at, and how it changes: one scan, its planes, window, organs, what is marked or moved.
// Panels and pointer change it here; it draws itself and tells `listeners`.

import { Masks } from "./masks.js";
import { ScanView } from "./niivue_adapter.js";
import { Overlay } from "./overlay.js";
import { bodyOf, layOut, NAMES, PLANES, snapped, Tile } from "./planes.js";
import { Placed } from "./boxes.js";
import { FACES } from "./marking.js";
import { limits, WINDOWS } from "./windows.js";

const HEADER_BYTES = 352; // of a NIfTI file, before its voxels
const HU_PER_PIXEL = 2;

export class Scene {
  constructor(stage, scanCanvas, overlayCanvas) {
    Object.assign(this, { stage, scanCanvas, overlayCanvas });
    this.painter = new ScanView();
    this.overlay = new Overlay(overlayCanvas);
    this.tiles = Object.fromEntries(NAMES.map((name) => [name, new Tile(name, { left: 0, top: 0, width: 1, height: 1 })]));
    this.large = "axial";
    this.window = { ...WINDOWS[0] };
    this.hidden = new Set();
    this.showMasks = this.showFill = this.showBoxes = true;
    this.listeners = {};
    this.clear();
  }

  // Without a scan nothing is painted: the picture of the one before could be taken for the next one's.
  clear() {
    Object.assign(this, { frame: null, organs: [], masks: null, otherMasks: null, selected: null, placed: null, marking: null });
    this.moved = new Map();
    this.crosshair = [0, 0, 0];
    this.changed();
  }

  async start() {
    await this.painter.start(this.scanCanvas);
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.resize();
  }

  resize() {
    this.pixelRatio = window.devicePixelRatio || 1;
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight].map((each) => Math.max(Math.round(each * this.pixelRatio), 8));
    for (const canvas of [this.scanCanvas, this.overlayCanvas]) Object.assign(canvas, { width, height });
    this.#layOut();
  }

  #layOut() {
    const places = layOut(this.large, this.overlayCanvas.width, this.overlayCanvas.height);
    for (const tile of Object.values(this.tiles)) {
      const zoom = tile.whole ? tile.mmPerPixel / tile.whole : 1;
      const middle = tile.middle;
      tile.place(places[tile.name]);
      if (!this.frame) continue;
      tile.fit(this.body);
      if (zoom !== 1) Object.assign(tile, { mmPerPixel: tile.whole * zoom, middle });
    }
    this.changed();
  }

  enlarge(name) {
    if (name === this.large) return;
    this.large = name;
    this.#layOut();
  }

  // Shows another scan; `file` is its NIfTI file, `about` what the server says of it.
  async show(file, about) {
    this.clear();
    await this.painter.show(file, limits(this.window));
    this.frame = about.frame;
    this.hu = new Int16Array(file.slice(HEADER_BYTES));
    this.body = bodyOf(this.hu, this.frame);
    this.crosshair = snapped(this.body.low.map((low, axis) => (low + this.body.high[axis]) / 2), this.frame);
    for (const tile of Object.values(this.tiles)) tile.fit(this.body);
    this.#layOut();
  }

  // Its organs, and the labels of its voxels (an ArrayBuffer, or null). Moves that were not sent to be painted stay.
  setOrgans(organs, labels) {
    this.organs = organs;
    this.masks = labels && new Masks(labels, this.frame, organs);
    for (const [name, placed] of this.moved) {
      const isKept = placed.isUnsent && organs.some((each) => each.name === name && each.box);
      placed.settle();
      if (!isKept || !placed.isMoved) this.moved.delete(name);
    }
    this.select(organs.some((each) => each.name === this.selected) ? this.selected : null);
  }

  get unsent() {
    return [...this.moved.values()].filter((placed) => placed.isUnsent);
  }

  // These organs are on their way to be painted, wherever they were moved to before.
  send(names) {
    for (const name of names) this.moved.get(name)?.send();
  }

  // They were not painted: their moves are to be sent again.
  sendAgain() {
    for (const placed of this.moved.values()) placed.sent = null;
  }

  // Takes the last move of the chosen organ back; false where there is none.
  undoMove() {
    if (!this.placed?.undo()) return false;
    if (!this.placed.isMoved) this.moved.delete(this.selected); // its box may have been found anew since
    this.select(this.selected);
    return true;
  }

  setOther(organs, labels) {
    this.otherMasks = labels && new Masks(labels, this.frame, organs);
    this.changed();
  }

  select(name) {
    const organ = this.organs.find((each) => each.name === name);
    this.selected = organ ? name : null;
    this.placed = null;
    if (organ?.box) {
      if (!this.moved.has(name)) this.moved.set(name, new Placed(organ));
      this.placed = this.moved.get(name);
    }
    this.tell("organs");
    this.changed();
  }

  // Goes to the middle of an organ.
  goTo(name) {
    const box = this.organs.find((each) => each.name === name)?.box;
    if (!box) return;
    this.lookAt(snapped(box[0].map((low, axis) => (low + box[1][axis]) / 2), this.frame));
    for (const tile of Object.values(this.tiles)) {
      const middle = tile.plane.axes.map((axis) => (box[0][axis] + box[1][axis]) / 2);
      const { low, high } = tile.seen;
      if (middle.some((value, place) => value < low[place] || value > high[place])) tile.middle = middle;
    }
    this.changed();
  }

  pick(mm) {
    if (this.marking || !this.showMasks) return;
    const organ = this.masks?.at(mm);
    if (organ && !this.hidden.has(organ.name) && organ.name !== this.selected) this.select(organ.name);
  }

  mark(marking) {
    this.marking = marking;
    this.tell("marking");
    this.followGuide();
  }

  markingChanged() {
    this.tell("marking");
    this.followGuide();
  }

  // The plane in which the next point is marked comes to the front.
  followGuide() {
    if (this.marking?.face) this.enlarge(this.marking.face.plane);
    this.changed();
  }

  placedChanged() {
    this.tell("organs");
    this.changed();
  }

  titleOf(key) {
    return FACES.find((face) => face.key === key).title;
  }

  lookAt(mm) {
    this.crosshair = mm;
    this.tellPlace(mm);
    this.changed();
  }

  scroll(name, steps) {
    const { along } = PLANES[name];
    const mm = [...this.crosshair];
    mm[along] += steps * this.frame.spacing_mm[along];
    this.lookAt(snapped(mm, this.frame));
  }

  setWindow(window) {
    this.window = { ...window };
    this.painter.window(limits(this.window));
    this.tell("window");
    this.changed();
  }

  turnWindow(dx, dy) {
    const width = Math.max(this.window.width + dx * HU_PER_PIXEL, 10);
    this.setWindow({ ...this.window, key: "own", level: this.window.level + dy * HU_PER_PIXEL, width });
  }

  resetView() {
    for (const tile of Object.values(this.tiles)) tile.fit(this.body);
    this.changed();
  }

  tellPlace(mm) {
    if (!this.frame) return;
    const { shown_shape: shape, shown_spacing_mm: spacing, shown_origin_mm: origin } = this.frame;
    const place = mm.map((value, axis) => Math.round((value - origin[axis]) / spacing[axis]));
    const isInside = place.every((value, axis) => value >= 0 && value < shape[axis]);
    const hu = isInside ? this.hu[place[0] + shape[0] * (place[1] + shape[1] * place[2])] : null;
    this.tell("place", { hu, organ: isInside ? this.masks?.at(mm) : null });
  }

  tell(what, more) {
    this.listeners[what]?.(more);
  }

  changed() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    this.stage.classList.toggle("empty", !this.frame);
    if (!this.frame) return;
    this.painter.draw(this.tiles, this.crosshair, this.scanCanvas.width, this.scanCanvas.height);
    this.overlay.draw(this);
  }
}
