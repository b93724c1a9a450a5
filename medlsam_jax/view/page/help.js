// Keys and mouse, as they are.

import { button, make } from "./dom.js";

const MOUSE = [
  ["Wheel", "through the slices"], ["Click, drag", "all planes go there; an organ under it is chosen"],
  ["Ctrl + wheel", "nearer, further"], ["Shift + drag", "move the picture"], ["Right drag", "window: level and width"],
  ["Double click", "this plane large"], ["Drag a face or point", "move the box of the chosen organ"],
];
const KEYS = [
  ["1 2 3", "axial, coronal, sagittal large"], ["↑ ↓", "through the slices of the large plane"], ["Space", "masks on or off"],
  ["F", "masks filled or as outlines"], ["B", "boxes on or off"], ["W", "next window"], ["Z", "whole scan again"], ["[ ]", "organ before, organ after"],
  ["Enter", "segment again what was moved"], ["Ctrl + Z", "take the last move or point back"], ["Esc", "end marking, choose nothing"],
  ["A C R", "accept, correct, reject (of many scans)"], ["U", "take the decision back"], ["N P", "next scan, scan before"],
];

export function fillHelp(dialog) {
  const list = (rows) => make("dl", {}, ...rows.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]));
  dialog.replaceChildren(
    make("h2", {}, "Mouse"), list(MOUSE), make("h2", {}, "Keys"), list(KEYS),
    make("p", { className: "note" }, "The patient’s right is at the left of the screen; in the sagittal plane the front is. Everything stays on this computer."),
    button("Close", "", () => dialog.close()),
  );
}
