// Making a corrected scan a template, and what that changes in the bank's own check.

import { button, make } from "./dom.js";

export function growthPanel(root, scene, state, actions) {
  const chosen = scene.organs.filter((organ) => state.chosen.has(organ.name)).map((organ) => organ.name);
  const isReady = chosen.length > 0 && !state.isBusy;
  const text = chosen.length ? `Add ${chosen.length === 1 ? chosen[0] : `${chosen.length} organs`} of this scan` : "Add this scan";
  const parts = [make("h2", {}, "Let the bank grow")];
  if (scene.organs.some((organ) => organ.label && organ.volume_ml)) {
    parts.push(
      make("p", { className: "note" }, "Tick organs whose masks are right. They become templates that the next scans are found and painted with."),
      make("div", { className: "buttons" },
        button(text, `Into the templates in ${state.templates}`, actions.add, { className: "main", id: "add", disabled: !isReady }),
        button(chosen.length ? "None" : "All", "Tick all organs, or none", actions.chooseAll)),
    );
  } else parts.push(make("p", { className: "note" }, "Once masks are there, they can be added to the templates here."));
  if (state.grown) parts.push(...change(state.grown));
  root.replaceChildren(...parts);
}

function change({ check, templates, points_replaced: replaced, bank_file: file, folder }) {
  const parts = [make("p", {}, `Saved in ${folder}.`)];
  if (replaced.length) parts.push(make("p", { className: "note" }, `Masks took the place of the points of ${replaced.join(", ")}.`));
  if (file) return [...parts, make("p", { className: "note" }, `The bank ${file} is built already and does not change. Start with --templates to search with what you add.`)];
  if (!check.some((row) => row.before || row.after)) {
    return [...parts, make("p", { className: "note" }, "The bank’s own check needs two templates of an organ besides this one.")];
  }
  const rows = check.map(({ organ, before, after, this_scan_by_the_others: own }) => make("tr", {},
    make("td", {}, organ), cell(before?.box_iou), cell(after?.box_iou, before?.box_iou, 1), cell(own?.box_iou),
    make("td", {}, wall(before, after))));
  const head = make("tr", {}, ...["", "before", "after", "this scan", "wall mm"].map((text) => make("th", {}, text)));
  return [
    ...parts,
    make("p", {}, `The bank’s own check, ${templates} templates: mean box IoU`),
    make("table", { id: "check" }, head, ...rows),
    make("p", { className: "note" }, "Each template is looked for by the others and held against its own marks, the same templates before and after; “this scan” is how the others find the new one. It tells how well the marks agree, not how right a result is in a patient."),
  ];
}

function cell(value, before, sign) {
  const known = value !== undefined && before !== undefined;
  const apart = known ? sign * (value - before) : 0;
  const kind = apart > 0.005 ? "better" : apart < -0.005 ? "worse" : "";
  return make("td", { className: kind }, value === undefined ? "–" : value.toFixed(2));
}

const wall = (before, after) => [before, after].map((each) => (each ? each.wall_distance_mm.toFixed(1) : "–")).join(" → ");
