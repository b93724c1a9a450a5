// The list of organs: what is shown, what was found and how sure that is, and the box of the one that is chosen.

import { button, make } from "./dom.js";

const CHIPS = {
  found: "good", "partly outside": "warn", uncertain: "doubt", "outside field of view": "", given: "own", moved: "own", sent: "own",
};
const WORDS = { given: "placed by hand", sent: "at work", "outside field of view": "not in the scan" };

// `actions`: mark(name), segment(), find(), undo(), refresh().
export function organsPanel(root, scene, state, actions) {
  const rows = scene.organs.map((organ) => row(organ, scene, state, actions));
  const moved = scene.unsent;
  const buttons = make("div", { className: "buttons" });
  if (moved.length) {
    const names = moved.map((placed) => spoken(placed.organ)).join(", ");
    buttons.append(
      button("Segment again", "Paint the organs whose boxes were moved (Enter)", actions.segment, { className: "main", id: "segment", disabled: state.isBusy }),
      button("Undo", "Take the last move back (Ctrl+Z)", actions.undo),
    );
    rows.push(make("p", { className: "note" }, `Moved: ${names}`));
  }
  if (state.canFind) {
    const text = scene.organs.length ? "Find all organs again" : "Find organs";
    buttons.append(button(text, "Look for the organs of the bank and paint them", actions.find, { id: "find", className: scene.organs.length ? "" : "main", disabled: state.isBusy }));
  }
  const empty = make("p", { className: "note" }, state.canFind ? "Nothing was looked for in this scan yet." : "No results. Mark an organ below by six points.");
  root.replaceChildren(make("h2", {}, "Organs"), ...(scene.organs.length ? rows : [empty]), buttons);
}

function row(organ, scene, state, actions) {
  const isShown = !scene.hidden.has(organ.name);
  const isSelected = scene.selected === organ.name;
  const swatch = button("", isShown ? "Hide this organ" : "Show this organ", (event) => {
    event.stopPropagation();
    scene.hidden[isShown ? "add" : "delete"](organ.name);
    actions.refresh();
  }, { className: "swatch", style: { borderColor: organ.colour, background: isShown ? organ.colour : "transparent" } });
  const add = make("input", {
    type: "checkbox", checked: state.chosen.has(organ.name), title: "Add to the templates, below", disabled: !organ.label || !organ.volume_ml,
    onclick: (event) => event.stopPropagation(),
    onchange: (event) => {
      state.chosen[event.target.checked ? "add" : "delete"](organ.name);
      actions.refresh();
    },
  });
  const placed = scene.moved.get(organ.name);
  const verdict = placed?.isUnsent ? "moved" : placed?.sent ? "sent" : organ.verdict;
  const chip = verdict && make("span", { className: `chip ${CHIPS[verdict] ?? ""}` }, WORDS[verdict] ?? verdict);
  const size = make("span", { className: "size" }, organ.label ? millilitres(organ.volume_ml) : "");
  const head = make("div", { className: "row" }, swatch, make("span", { className: "name", title: organ.name }, spoken(organ.name)), chip, size, add);
  const choose = () => {
    scene.select(isSelected ? null : organ.name);
    if (!isSelected) scene.goTo(organ.name);
  };
  return make("div", { className: `organ${isSelected ? " selected" : ""}`, onclick: choose, "data-organ": organ.name }, head, isSelected && more(organ, state, actions));
}

function more(organ, state, actions) {
  const lines = organ.doubts.map((doubt) => make("p", {}, doubt));
  if (organ.right_probability !== null) lines.push(make("p", {}, `Probability that the box is right (IoU above .5): ${Math.round(100 * organ.right_probability)} %.`));
  for (const [title, dice] of state.dice(organ.name)) {
    lines.push(make("p", {}, dice === null ? `${title}: painted in one of them alone` : `${title}: Dice ${dice.toFixed(2)} between the two`));
  }
  if (organ.box) lines.push(make("p", {}, "Drag a face, a corner or a point of the box, in any plane."));
  lines.push(button("Mark its six points", "Place all six extreme points anew", (event) => {
    event.stopPropagation();
    actions.mark(organ.name);
  }, { disabled: state.isBusy }));
  return make("div", { className: "more", onclick: (event) => event.stopPropagation() }, ...lines);
}

// `parotid_gland_left` as it is said.
export const spoken = (name) => name.replaceAll("_", " ");

export function millilitres(value) {
  if (value === 0) return "empty";
  return value >= 100 ? `${Math.round(value)} ml` : value >= 1 ? `${value.toFixed(1)} ml` : `${value.toFixed(2)} ml`;
}
