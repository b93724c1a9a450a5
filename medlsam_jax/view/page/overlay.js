// What is drawn over the scan: masks, boxes, points, lines of the crosshair, letters of orientation, a scale.

const NEAR_MM = 12; // a point this far from the slice is still shown, faintly
const HANDLE = 5;

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  // `view`: the state of `scene.js`.
  draw(view) {
    const { context } = this;
    this.unit = view.pixelRatio;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const tile of Object.values(view.tiles)) {
      context.save();
      context.beginPath();
      context.rect(tile.left, tile.top, tile.width, tile.height);
      context.clip();
      this.#tile(tile, view);
      context.restore();
    }
  }

  #tile(tile, view) {
    const depth = view.crosshair[tile.plane.along];
    if (view.masks && view.showMasks) {
      const isShown = (organ) => !view.hidden.has(organ.name);
      if (view.showFill) view.masks.fill(this.context, tile, depth, isShown);
      const thick = (organ) => (organ.name === view.selected ? 2.4 : 1.4) * this.unit;
      view.masks.outline(this.context, tile, depth, isShown, { thick });
    }
    if (view.otherMasks) {
      const isShown = (organ) => !view.hidden.has(organ.name);
      const thick = () => 1.6 * this.unit;
      view.otherMasks.outline(this.context, tile, depth, isShown, { thick, dash: [6 * this.unit, 4 * this.unit] });
    }
    this.#crosshair(tile, view);
    if (view.showBoxes) {
      for (const organ of view.organs) {
        if (organ.name !== view.selected && !view.hidden.has(organ.name) && organ.box && !view.marking) {
          this.#box(tile, view, { low: organ.box[0], high: organ.box[1] }, organ.colour, 1, [5, 4]);
        }
      }
    }
    if (view.marking) this.#marking(tile, view);
    else if (view.placed) this.#placed(tile, view);
    this.#frame(tile, view);
  }

  #crosshair(tile, view) {
    const { context } = this;
    const [x, y] = tile.toScreen(view.crosshair);
    const gap = 14 * this.unit;
    context.strokeStyle = "rgba(120, 190, 240, .45)";
    context.lineWidth = this.unit;
    context.beginPath();
    for (const [from, to] of [[tile.left, x - gap], [x + gap, tile.left + tile.width]]) {
      context.moveTo(from, y);
      context.lineTo(to, y);
    }
    for (const [from, to] of [[tile.top, y - gap], [y + gap, tile.top + tile.height]]) {
      context.moveTo(x, from);
      context.lineTo(x, to);
    }
    context.stroke();
  }

  // Solid where the slice goes through the box, faint elsewhere. Gives its rectangle on the screen.
  #box(tile, view, { low, high }, colour, thick, dash = []) {
    const { context } = this;
    const depth = view.crosshair[tile.plane.along];
    const isThrough = depth >= low[tile.plane.along] && depth <= high[tile.plane.along];
    const [right, bottom] = tile.toScreen(low);
    const [left, top] = tile.toScreen(high);
    context.save();
    context.strokeStyle = colour;
    context.lineWidth = thick * this.unit;
    context.setLineDash(dash.map((each) => each * this.unit));
    context.globalAlpha = isThrough ? 1 : 0.28;
    context.strokeRect(left, top, right - left, bottom - top);
    context.restore();
    return { left, top, right, bottom, isThrough };
  }

  #placed(tile, view) {
    const { context } = this;
    const { placed } = view;
    const colour = view.organs.find((organ) => organ.name === placed.organ)?.colour ?? "#fff";
    const { left, top, right, bottom, isThrough } = this.#box(tile, view, placed, placed.isMoved ? "#fff" : colour, 2);
    if (isThrough) {
      context.fillStyle = placed.isMoved ? "#fff" : colour;
      const size = HANDLE * this.unit;
      for (const [x, y] of [[left, (top + bottom) / 2], [right, (top + bottom) / 2], [(left + right) / 2, top], [(left + right) / 2, bottom]]) {
        context.fillRect(x - size / 2 - 1, y - size / 2 - 1, size + 2, size + 2);
      }
    }
    for (const point of placed.points ?? []) this.#point(tile, view, point, colour, "");
  }

  #marking(tile, view) {
    const { marking } = view;
    const box = marking.box();
    if (box && marking.count > 1) {
      const half = view.frame.spacing_mm.map((edge) => edge / 2);
      const grown = { low: box.low.map((v, a) => v - half[a]), high: box.high.map((v, a) => v + half[a]) };
      this.#box(tile, view, grown, "#f2c14e", 1, [3, 3]);
    }
    for (const [key, point] of Object.entries(marking.points)) {
      this.#point(tile, view, point, key === marking.now ? "#fff" : "#f2c14e", view.titleOf(key));
    }
    if (marking.face && marking.face.plane === tile.name) {
      this.context.strokeStyle = "#f2c14e";
      this.context.lineWidth = 3 * this.unit;
      this.context.strokeRect(tile.left + 1.5, tile.top + 1.5, tile.width - 3, tile.height - 3);
    }
  }

  #point(tile, view, mm, colour, text) {
    const { context } = this;
    const apart = Math.abs(mm[tile.plane.along] - view.crosshair[tile.plane.along]);
    const isHere = apart <= view.frame.spacing_mm[tile.plane.along] * 0.75;
    if (!isHere && apart > NEAR_MM) return;
    const [x, y] = tile.toScreen(mm);
    context.save();
    context.globalAlpha = isHere ? 1 : 0.35;
    context.beginPath();
    context.arc(x, y, HANDLE * this.unit, 0, 2 * Math.PI);
    context.lineWidth = 1.5 * this.unit;
    context.strokeStyle = "#000";
    context.fillStyle = colour;
    if (isHere) context.fill();
    context.stroke();
    context.strokeStyle = colour;
    if (!isHere) context.stroke();
    if (isHere && text) this.#text(text, x + 9 * this.unit, y, { align: "left", colour });
    context.restore();
  }

  #frame(tile, view) {
    const { left, top, width, height, plane } = tile;
    const edge = 14 * this.unit;
    const [west, east, north, south] = plane.letters;
    this.#text(west, left + edge, top + height / 2, { size: 15 });
    this.#text(east, left + width - edge, top + height / 2, { size: 15 });
    this.#text(north, left + width / 2, top + edge, { size: 15 });
    this.#text(south, left + width / 2, top + height - edge, { size: 15 });
    const number = Math.round(view.crosshair[plane.along] / view.frame.spacing_mm[plane.along]) + 1;
    const title = `${plane.title} ${number} / ${view.frame.shape[plane.along]}`;
    this.#text(title, left + 10 * this.unit, top + edge, { align: "left", colour: "#b9c6d2" });
    this.#scale(tile);
  }

  #scale(tile) {
    const { context } = this;
    const mm = [100, 50, 20, 10, 5].find((each) => each / tile.mmPerPixel < tile.width * 0.3) ?? 5;
    const length = mm / tile.mmPerPixel;
    const [x, y] = [tile.left + 12 * this.unit, tile.top + tile.height - 14 * this.unit];
    context.strokeStyle = "#b9c6d2";
    context.lineWidth = 1.5 * this.unit;
    context.beginPath();
    context.moveTo(x, y - 4 * this.unit);
    context.lineTo(x, y);
    context.lineTo(x + length, y);
    context.lineTo(x + length, y - 4 * this.unit);
    context.stroke();
    this.#text(mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, x + length + 6 * this.unit, y - 3 * this.unit, { align: "left", colour: "#b9c6d2", size: 11 });
  }

  #text(text, x, y, { align = "center", colour = "#e8d9a0", size = 12.5 } = {}) {
    const { context } = this;
    context.font = `600 ${size * this.unit}px system-ui, "Liberation Sans", sans-serif`;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.lineWidth = 3 * this.unit;
    context.strokeStyle = "rgba(0, 0, 0, .75)";
    context.strokeText(text, x, y);
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }
}
