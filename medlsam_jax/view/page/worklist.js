// The scans of a cohort, the worst first, and what was decided about each: by keys, without looking away from the scan.

import { make } from "./dom.js";

const SHOWN = 400;
const SIGNS = { accept: ["✓ accepted", "good"], correct: ["✎ to correct", "warn"], reject: ["✕ rejected", "bad"] };

// `actions`: open(id), decide(decision or null).
export function worklist(root, state, actions) {
  const { scans, current } = state;
  root.hidden = scans.length < 2;
  if (root.hidden) return;
  const scrolled = root.querySelector("ol")?.scrollTop ?? 0;
  const decided = scans.filter((scan) => scan.decision).length;
  const rows = scans.slice(0, SHOWN).map((scan) => row(scan, scan.id === current, actions));
  const rest = scans.length - SHOWN;
  const list = make("ol", {}, ...rows, rest > 0 && make("li", { className: "note" }, `and ${rest} more, reached by N`));
  const decision = scans.find((scan) => scan.id === current)?.decision;
  const choice = (key, name, text, title) => make("button", {
    title: `${title} (${key})`, onclick: () => actions.decide(decision === name ? null : name),
    className: decision === name ? "on" : "", id: `decide-${name}`,
  }, `${text} `, make("kbd", {}, key));
  root.replaceChildren(
    make("div", { className: "head" },
      make("h2", {}, "Worst first"),
      make("progress", { max: scans.length, value: decided }),
      make("div", { className: "note" }, `${decided} of ${scans.length} decided`)),
    list,
    make("div", { className: "decide" },
      choice("A", "accept", "Accept", "The result is right; on to the next"),
      choice("C", "correct", "Correct", "To be corrected: chooses the organ in most doubt"),
      choice("R", "reject", "Reject", "The result is of no use; on to the next")),
  );
  list.scrollTop = scrolled;
  list.querySelector(".now")?.scrollIntoView({ block: "nearest" });
}

function row(scan, isNow, actions) {
  const [text, kind] = SIGNS[scan.decision] ?? [];
  const doubts = scan.verdicts.uncertain ?? 0;
  const chip = scan.error ? make("span", { className: "chip bad" }, "failed")
    : text ? make("span", { className: `chip ${kind}` }, text)
    : doubts ? make("span", { className: "chip doubt" }, `${doubts} uncertain`) : null;
  const why = scan.error || scan.reasons.join("; ");
  return make("li", { className: isNow ? "now" : "", title: why, onclick: () => actions.open(scan.id), "data-scan": scan.id },
    make("div", { className: "row" }, make("span", { className: "name" }, scan.name), scan.is_corrected && make("span", { className: "chip own" }, "corrected"), chip),
    why && make("div", { className: "why" }, why));
}

// The next scan without a decision, behind the current one and then from the start; null when all are decided.
export function nextOpen(scans, current) {
  const place = scans.findIndex((scan) => scan.id === current);
  const order = [...scans.slice(place + 1), ...scans.slice(0, place)];
  return order.find((scan) => !scan.decision && !scan.error)?.id ?? null;
}
