// Marking six points: choosing the organ, the six faces, what to do with them; and the guide over the planes.

import { button, make } from "./dom.js";
import { FACES } from "./marking.js";

// `actions`: mark(name), cancel(), save(), segmentPoints(), place(key).
export function markingPanel(root, scene, state, actions) {
  root.replaceChildren(make("h2", {}, "Mark an organ"), ...(scene.marking ? open(scene, state, actions) : closed(state, actions)));
}

export function guide(root, scene) {
  const { marking } = scene;
  root.hidden = !marking;
  if (!marking) return;
  const { face } = marking;
  const head = face ? `${marking.organ} · point ${marking.count + 1} of 6: ${face.say}` : `${marking.organ} · six points are there`;
  root.replaceChildren(make("b", {}, head), make("span", { className: "note" }, marking.hint()));
}

function closed(state, actions) {
  const input = make("input", { type: "text", id: "organ-name", placeholder: "liver, parotid_left, …", maxLength: 80, autocomplete: "off" });
  input.setAttribute("list", "organ-names");
  const list = make("datalist", { id: "organ-names" }, ...state.names.map((name) => make("option", { value: name })));
  const start = () => input.value.trim() && actions.mark(input.value.trim());
  input.onkeydown = (event) => event.key === "Enter" && start();
  const known = Object.keys(state.marked.points);
  const lines = [make("p", { className: "note" }, "Six clicks on its outermost points make a template of this scan.")];
  if (known.length || state.marked.masks.length) {
    const all = [...known.map((name) => `${name} (points)`), ...state.marked.masks.map((name) => `${name} (mask)`)];
    lines.push(make("p", { className: "note" }, `In the templates already: ${all.join(", ")}`));
  }
  return [...lines, input, list, make("div", { className: "buttons" }, button("Mark six points", "Begin with the first", start, { className: "main", id: "mark" }))];
}

function open(scene, state, actions) {
  const { marking } = scene;
  const faces = FACES.map((face) => button(face.title, `Go to it, or mark it anew: ${face.say}`, () => actions.place(face.key), {
    className: `${marking.now === face.key ? "now" : ""}${marking.points[face.key] ? " set" : ""}`, "data-face": face.key,
  }));
  const slack = scene.frame.spacing_mm;
  const wrong = marking.wrong(slack).slice(0, 2).map((text) => make("p", { className: "chip doubt", style: { whiteSpace: "normal" } }, text));
  const isReady = marking.isWhole && !state.isBusy;
  return [
    make("div", { className: "row" }, make("b", {}, marking.organ), make("span", { className: "note" }, `${marking.count} of 6`)),
    make("div", { className: "faces" }, ...faces),
    ...wrong,
    make("div", { className: "buttons" },
      button("Save as template", `Writes the points beside the scan in ${state.templates}`, actions.save, { className: "main", id: "save-points", disabled: !isReady }),
      button("Segment from these", "Paint the organ in the box of these points", actions.segmentPoints, { id: "segment-points", disabled: !isReady }),
      button("Undo", "Take the last point back (Ctrl+Z)", actions.undo, { disabled: !marking.history.length }),
      button("Close", "Back to the organs (Esc); unsaved points are kept until the program ends", actions.cancel)),
  ];
}
