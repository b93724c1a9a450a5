// Brings the parts together: opens scans, runs work on the server, redraws panels, listens to keys.

import * as api from "./api.js";
import { button, byId, make } from "./dom.js";
import { growthPanel } from "./growth_panel.js";
import { fillHelp } from "./help.js";
import { FACES, Marking } from "./marking.js";
import { guide, markingPanel } from "./marking_panel.js";
import { organsPanel } from "./organs_panel.js";
import { Pointer } from "./pointer.js";
import { Scene } from "./scene.js";
import { WINDOWS } from "./windows.js";
import { nextOpen, worklist } from "./worklist.js";

const scene = new Scene(byId("stage"), byId("scan"), byId("overlay"));
const state = {
  scans: [], current: null, about: null, names: [], templates: "", canFind: false, marked: { points: {}, masks: [] }, drafts: {},
  chosen: new Set(), grown: null, isBusy: false, other: "",
  dice: (organ) => Object.entries(state.about?.others ?? {}).filter(([, other]) => organ in other.dice).map(([which, other]) => [titleOf(which), other.dice[organ]]),
};
const titleOf = (which) => (which === "before" ? "Before the correction" : state.otherName);

function say(text, isError = false) {
  const line = byId("message");
  line.textContent = text;
  line.title = text;
  line.className = isError ? "error" : "";
}

// Every action comes through here: what goes wrong is said, and nothing is lost.
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
    console.error(error);
  }
  refresh();
}

async function work(start, done) {
  if (state.isBusy) return;
  state.isBusy = true;
  const scan = state.current;
  refresh();
  try {
    const job = await start();
    byId("progress").querySelector("button").onclick = () => api.stop(job.job);
    const result = await api.finished(job, tellProgress);
    await done(result, scan === state.current);
  } finally {
    state.isBusy = false;
    byId("progress").hidden = true;
  }
}

function tellProgress({ text, done, total }) {
  const root = byId("progress");
  root.hidden = false;
  const bar = root.querySelector("progress");
  if (total) Object.assign(bar, { max: total, value: done });
  else bar.removeAttribute("value");
  root.querySelector("span").textContent = text;
}

async function loadDesk() {
  const desk = await api.desk();
  Object.assign(state, {
    scans: desk.scans, names: desk.organs.map((organ) => organ.name), templates: desk.templates, canFind: desk.can_find,
    otherName: desk.other ? `Results in ${desk.other}` : "",
  });
}

let opening = Promise.resolve();

// One scan after the other: of two that load at once, one's picture could lie under the other's masks.
function open(id) {
  const mine = opening.then(() => load(id));
  opening = mine.catch(() => {});
  return mine;
}

async function load(id) {
  byId("loading").hidden = false;
  byId("loading").textContent = "Loading…";
  try {
    if (scene.marking) keepDraft();
    const about = await api.about(id);
    const file = await api.volume(id);
    Object.assign(state, { current: id, about, grown: null, chosen: new Set(), other: "", drafts: about.draft, marked: about.marked });
    await scene.show(file, about);
    await showResult();
    say("");
    byId("loading").hidden = true;
    const next = nextOpen(state.scans, id);
    if (next !== null) api.readAhead(next).catch(() => {}); // it will be said when that scan is opened
  } catch (error) {
    byId("loading").textContent = error.message;
    state.current = id;
    scene.clear();
    throw error;
  }
}

// The result of the scan as the server has it now.
async function showResult() {
  const { about } = state;
  const labels = about.organs.some((organ) => organ.label) ? await api.labels(about.id, "result") : null;
  scene.setOrgans(about.organs, labels);
  await compareWith(state.other in about.others ? state.other : "");
}

async function reload() {
  state.about = await api.about(state.current);
  state.marked = state.about.marked;
  await loadDesk();
  await showResult();
}

async function compareWith(which) {
  state.other = which;
  const other = state.about.others[which];
  const labels = other?.organs.some((organ) => organ.label) ? await api.labels(state.about.id, which) : null;
  scene.setOther(other?.organs ?? [], labels);
}

const actions = {
  refresh,
  find: () => attempt(() => work(() => api.find(state.current, []), async ({ organs }, isHere) => {
    if (isHere) await reload();
    say(`Found and painted ${organs.length} organs; saved.`);
  })),
  segment: () => {
    const moved = [...scene.moved.values()].filter((placed) => placed.isMoved);
    if (!moved.length) return;
    segment(Object.fromEntries(moved.map((placed) => [placed.organ, placed.said])));
  },
  segmentPoints: () => {
    const { marking } = scene;
    if (!marking?.isWhole) return;
    segment({ [marking.organ]: { points: marking.six } }, () => {
      keepDraft();
      scene.mark(null);
      scene.select(marking.organ);
    });
  },
  undo: () => {
    if (scene.marking) {
      scene.marking.undo();
      scene.markingChanged();
    } else if (scene.placed?.undo()) scene.placedChanged();
    refresh();
  },
  mark: (organ) => {
    const known = state.drafts[organ] ?? null;
    const saved = state.marked.points[organ];
    scene.select(organ);
    scene.mark(known ? new Marking(organ, known) : saved ? Marking.of(organ, saved) : new Marking(organ));
    refresh();
  },
  place: (key) => {
    const { marking } = scene;
    if (marking.points[key]) {
      scene.enlarge(FACES.find((face) => face.key === key).plane);
      scene.lookAt([...marking.points[key]]);
    }
    marking.now = key;
    scene.markingChanged();
    refresh();
  },
  cancel: () => {
    keepDraft();
    scene.mark(null);
    refresh();
  },
  save: () => attempt(async () => {
    const { marking } = scene;
    const { file, folder } = await api.savePoints(state.current, { [marking.organ]: marking.six });
    delete state.drafts[marking.organ];
    marking.isChanged = false;
    const about = await api.about(state.current);
    state.marked = about.marked;
    await loadDesk();
    say(`Saved ${file} in ${folder}.`);
  }),
  add: () => attempt(() => work(() => api.add(state.current, [...state.chosen]), async (result, isHere) => {
    state.grown = result;
    state.chosen = new Set();
    await loadDesk();
    if (isHere) state.marked = (await api.about(state.current)).marked;
    say(`Added to the templates in ${result.folder}.`);
  })),
  chooseAll: () => {
    const all = scene.organs.filter((organ) => organ.label && organ.volume_ml).map((organ) => organ.name);
    state.chosen = new Set(state.chosen.size ? [] : all);
    refresh();
  },
  open: (id) => attempt(() => open(id)),
  decide: (decision) => attempt(async () => {
    const scan = state.scans.find((each) => each.id === state.current);
    await api.decide(scan.id, decision, "");
    scan.decision = decision ?? undefined;
    if (decision === "correct") chooseWorst();
    else if (decision) {
      const next = nextOpen(state.scans, state.current);
      if (next === null) say("All scans are decided.");
      else await open(next);
    }
  }),
};

function segment(organs, then = () => {}) {
  attempt(() => work(() => api.segment(state.current, organs), async (result, isHere) => {
    if (isHere) {
      await reload();
      then();
    }
    say(`Painted ${result.organs.join(", ")}; saved in ${result.out}.`);
  }));
}

function keepDraft() {
  const { marking } = scene;
  if (!marking || !marking.isChanged) return;
  state.drafts = { ...state.drafts, [marking.organ]: marking.points };
  api.draft(state.current, state.drafts).catch((error) => say(error.message, true));
}

function chooseWorst() {
  const doubt = (organ) => (organ.verdict === "given" || organ.verdict === "outside field of view" ? 0 : 1 - (organ.right_probability ?? (organ.verdict === "found" ? 1 : 0)));
  const worst = [...scene.organs].sort((one, two) => doubt(two) - doubt(one))[0];
  if (!worst) return;
  scene.select(worst.name);
  scene.goTo(worst.name);
}

function step(by) {
  const place = state.scans.findIndex((scan) => scan.id === state.current) + by;
  if (place >= 0 && place < state.scans.length) actions.open(state.scans[place].id);
}

function stepOrgan(by) {
  const names = scene.organs.map((organ) => organ.name);
  if (!names.length) return;
  const place = (names.indexOf(scene.selected) + by + names.length) % names.length;
  scene.select(names[place]);
  scene.goTo(names[place]);
}

function refresh() {
  const { about } = state;
  const scan = state.scans.find((each) => each.id === state.current);
  byId("title").textContent = scan ? scan.name : "medlsam";
  document.title = scan ? `${scan.name} · medlsam view` : "medlsam view";
  const thinned = byId("thinned");
  thinned.hidden = !about?.frame.is_thinned;
  if (about?.frame.is_thinned) {
    thinned.textContent = `large scan: shown at ${about.frame.shown_spacing_mm.map((edge) => edge.toFixed(1)).join(" × ")} mm`;
    thinned.title = "Points, boxes and masks are computed and saved at the scan's full resolution.";
  }
  const notes = byId("scan-notes");
  notes.hidden = !about?.doubts.length;
  notes.replaceChildren(...(about?.doubts ?? []).map((text) => make("p", {}, text)));
  if (about) {
    organsPanel(byId("organs"), scene, state, actions);
    markingPanel(byId("marking"), scene, state, actions);
    growthPanel(byId("growth"), scene, state, actions);
  }
  worklist(byId("worklist"), state, actions);
  guide(byId("guide"), scene);
  compareChoice();
  for (const [id, name] of [["show-masks", "showMasks"], ["show-fill", "showFill"], ["show-boxes", "showBoxes"]]) byId(id).className = scene[name] ? "on" : "";
  scene.changed();
}

function compareChoice() {
  const others = Object.keys(state.about?.others ?? {});
  byId("compare-label").hidden = !others.length;
  const options = [["", "nothing"], ...others.map((which) => [which, titleOf(which).toLowerCase()])];
  const select = byId("compare");
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, selected: value === state.other }, text)));
  select.title = "Solid: this result. Dashed: the other one.";
}

function toggle(name) {
  scene[name] = !scene[name];
  refresh();
}

const KEYS = {
  1: () => scene.enlarge("axial"), 2: () => scene.enlarge("coronal"), 3: () => scene.enlarge("sagittal"),
  ArrowUp: () => scene.scroll(scene.large, 1), ArrowDown: () => scene.scroll(scene.large, -1),
  PageUp: () => scene.scroll(scene.large, 5), PageDown: () => scene.scroll(scene.large, -5),
  " ": () => toggle("showMasks"), f: () => toggle("showFill"), b: () => toggle("showBoxes"), z: () => scene.resetView(),
  w: () => scene.setWindow(WINDOWS[(WINDOWS.findIndex((each) => each.key === scene.window.key) + 1) % WINDOWS.length]),
  "[": () => stepOrgan(-1), "]": () => stepOrgan(1), Enter: () => actions.segment(),
  Escape: () => (scene.marking ? actions.cancel() : scene.select(null)), "?": () => byId("help").showModal(),
};
const COHORT_KEYS = {
  a: () => actions.decide("accept"), c: () => actions.decide("correct"), r: () => actions.decide("reject"), u: () => actions.decide(null),
  n: () => step(1), p: () => step(-1),
};

function onKey(event) {
  if (event.target.matches("input, select, textarea") || byId("help").open || event.altKey) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z") {
    event.preventDefault();
    actions.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || !scene.frame) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((key === "Enter" || key === " ") && event.target.matches("button")) return;
  const handler = KEYS[key] ?? (state.scans.length > 1 ? COHORT_KEYS[key] : undefined);
  if (!handler) return;
  event.preventDefault();
  handler();
}

function wire() {
  byId("windows").replaceChildren(...WINDOWS.map((each) => button(each.name, `Level ${each.level}, width ${each.width} HU (W: next)`, () => scene.setWindow(each), { "data-window": each.key })));
  scene.listeners = {
    organs: refresh,
    marking: () => {
      keepDraft();
      refresh();
    },
    window: () => {
      for (const each of byId("windows").children) each.className = each.dataset.window === scene.window.key ? "on" : "";
    },
    place: ({ hu, organ }) => {
      byId("place").textContent = hu === null ? "" : `${hu} HU${organ ? ` · ${organ.name}` : ""}`;
    },
  };
  scene.tell("window");
  byId("show-masks").onclick = () => toggle("showMasks");
  byId("show-fill").onclick = () => toggle("showFill");
  byId("show-boxes").onclick = () => toggle("showBoxes");
  byId("compare").onchange = (event) => attempt(() => compareWith(event.target.value));
  byId("help-button").onclick = () => byId("help").showModal();
  fillHelp(byId("help"));
  document.addEventListener("keydown", onKey);
  window.addEventListener("beforeunload", (event) => scene.marking?.isWhole && scene.marking.isChanged && event.preventDefault());
  new Pointer(byId("overlay"), scene);
}

async function start() {
  try {
    await scene.start();
  } catch (error) {
    byId("loading").textContent = `This browser cannot show volumes (WebGL 2 is missing or off): ${error.message}`;
    return;
  }
  wire();
  await attempt(async () => {
    await loadDesk();
    await open((state.scans.find((scan) => !scan.decision && !scan.error) ?? state.scans[0]).id);
  });
  window.medlsam = { scene, state }; // for the browser's console, and the tests
}

start();
