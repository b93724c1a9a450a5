// Mouse and wheel over the planes: look around, place and drag points, move the faces of a box.

import { snapped } from "./planes.js";

const REACH = 9; // pixels of the screen that a click may miss a handle by
const SCROLL_PIXELS = 40;

export class Pointer {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view;
    this.held = null;
    this.rolled = 0;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("lostpointercapture", () => (this.held = null)); // when another scan comes, too
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.#enlarge(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  #at(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const place = [event.clientX - bounds.left, event.clientY - bounds.top].map((each) => each * this.view.pixelRatio);
    return { place, tile: Object.values(this.view.tiles).find((tile) => tile.holds(place)) ?? null };
  }

  #down(event) {
    const { place, tile } = this.#at(event);
    if (!tile || !this.view.frame) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus();
    const { placed, marking } = this.view;
    const held = { tile, start: place, last: place, kind: "look", placed, marking };
    if (event.button === 2) held.kind = "window";
    else if (event.button === 1 || event.shiftKey) held.kind = "pan";
    else Object.assign(held, this.#handle(tile, place) ?? { kind: marking?.now ? "mark" : "look" });
    if (held.kind === "point") marking.remember();
    if (held.kind === "face" || held.kind === "extreme") placed.remember();
    this.held = held;
    if (held.kind === "look") this.#look(tile, place);
  }

  #move(event) {
    const { place, tile } = this.#at(event);
    const { held, view } = this;
    if (!held) {
      this.#hover(tile, place);
      return;
    }
    const [dx, dy] = [place[0] - held.last[0], place[1] - held.last[1]];
    held.last = place;
    const mm = held.tile.toMm(place, view.crosshair);
    if (held.kind === "look") this.#look(held.tile, place);
    else if (held.kind === "window") view.turnWindow(dx / view.pixelRatio, dy / view.pixelRatio);
    else if (held.kind === "pan") held.tile.pan(dx, dy);
    else if (held.kind === "point") held.marking.drag(held.key, snapped(mm, view.frame));
    else if (held.kind === "extreme") held.placed.movePoint(held.number, snapped(mm, view.frame), view.frame.spacing_mm);
    else if (held.kind === "face") {
      for (const { axis, side } of held.faces) {
        const spacing = view.frame.spacing_mm[axis];
        held.placed.moveFace(axis, side, (Math.round(mm[axis] / spacing - 0.5) + 0.5) * spacing, spacing);
      }
    }
    view.changed();
  }

  #up(event) {
    const { held, view } = this;
    this.held = null;
    if (!held) return;
    const far = Math.hypot(held.last[0] - held.start[0], held.last[1] - held.start[1]);
    if (held.kind === "mark" && far < REACH) {
      const mm = snapped(held.tile.toMm(held.start, view.crosshair), view.frame);
      view.marking.place(mm);
      view.lookAt(mm);
      view.markingChanged();
    } else if (held.kind === "point") view.markingChanged();
    else if (held.kind === "face" || held.kind === "extreme") {
      if (far < 1) view.undoMove();
      view.placedChanged();
    } else if (held.kind === "look" && far < REACH && event.button === 0) view.pick(held.tile.toMm(held.start, view.crosshair));
    view.changed();
  }

  #look(tile, place) {
    this.view.lookAt(snapped(tile.toMm(place, this.view.crosshair), this.view.frame));
  }

  // What can be dragged under the pointer: a point first, since points lie on faces.
  #handle(tile, place) {
    const { view } = this;
    const reach = REACH * view.pixelRatio;
    const depth = view.crosshair[tile.plane.along];
    const isHere = (mm) => Math.abs(mm[tile.plane.along] - depth) <= view.frame.spacing_mm[tile.plane.along] * 0.75;
    const isNear = (mm) => {
      const [x, y] = tile.toScreen(mm);
      return isHere(mm) && Math.hypot(x - place[0], y - place[1]) < reach;
    };
    if (view.marking) {
      const found = Object.entries(view.marking.points).find(([, mm]) => isNear(mm));
      return found ? { kind: "point", key: found[0] } : null;
    }
    if (!view.placed) return null;
    const number = (view.placed.points ?? []).findIndex(isNear);
    if (number >= 0) return { kind: "extreme", number };
    const { low, high } = view.placed;
    if (depth < low[tile.plane.along] || depth > high[tile.plane.along]) return null;
    return this.#faces(tile, place, low, high, reach);
  }

  // Faces of the box whose edge is near: one, or two at a corner.
  #faces(tile, place, low, high, reach) {
    const [right, bottom] = tile.toScreen(low);
    const [left, top] = tile.toScreen(high);
    const [across, up] = tile.plane.axes;
    const [x, y] = place;
    if (x < left - reach || x > right + reach || y < top - reach || y > bottom + reach) return null;
    const nearest = (value, one, two) => (Math.abs(value - one) < Math.abs(value - two) ? [one, "high"] : [two, "low"]);
    const faces = [];
    for (const [axis, value, one, two] of [[across, x, left, right], [up, y, top, bottom]]) {
      const [edge, side] = nearest(value, one, two);
      if (Math.abs(value - edge) < reach) faces.push({ axis, side });
    }
    return faces.length ? { kind: "face", faces } : null;
  }

  #hover(tile, place) {
    const { view } = this;
    if (!tile || !view.frame) return;
    const handle = this.#handle(tile, place);
    const [across] = tile.plane.axes;
    let shape = view.marking?.now ? "crosshair" : "default";
    if (handle?.kind === "face") {
      const isCorner = handle.faces.length > 1;
      shape = isCorner ? "move" : handle.faces[0].axis === across ? "ew-resize" : "ns-resize";
    } else if (handle) shape = "grab";
    this.canvas.style.cursor = shape;
    view.tellPlace(tile.toMm(place, view.crosshair));
  }

  #wheel(event) {
    event.preventDefault();
    const { place, tile } = this.#at(event);
    if (!tile || !this.view.frame) return;
    if (event.ctrlKey || event.metaKey) {
      tile.zoom(Math.exp(event.deltaY * 0.0025), place);
      this.view.changed();
      return;
    }
    this.rolled += event.deltaMode === 0 ? event.deltaY / SCROLL_PIXELS : event.deltaY;
    const steps = Math.trunc(this.rolled);
    this.rolled -= steps;
    if (steps) this.view.scroll(tile.name, -Math.sign(steps) * Math.min(Math.abs(steps), 4));
  }

  #enlarge(event) {
    const { tile } = this.#at(event);
    if (tile && !this.view.marking) this.view.enlarge(tile.name);
  }
}
