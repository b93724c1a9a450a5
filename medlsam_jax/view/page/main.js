// Brings the parts together: opens scans, runs work on the server, redraws panels, listens to keys.

import * as api from "./api.js";
import { button, byId, make } from "./dom.js";
import { growthPanel } from "./growth_panel.js";
import { fillHelp } from "./help.js";
import { FACES, Marking } from "./marking.js";
import { guide, markingPanel } from "./marking_panel.js";
import { organsPanel, spoken } from "./organs_panel.js";
import { Pointer } from "./pointer.js";
import { ask } from "./question.js";
import { Scene } from "./scene.js";
import { WINDOWS } from "./windows.js";
import { nextOpen, worklist } from "./worklist.js";

const scene = new Scene(byId("stage"), byId("scan"), byId("overlay"));
const state = {
  scans: [], current: null, wanted: null, about: null, names: [], templates: "", canFind: false, marked: { points: {}, masks: [] }, drafts: {},
  chosen: new Set(), grown: null, isBusy: false, leaving: 0, other: "",
  dice: (organ) => Object.entries(state.about?.others ?? {}).filter(([, other]) => organ in other.dice).map(([which, other]) => [titleOf(which), other.dice[organ]]),
};
const titleOf = (which) => (which === "before" ? "Before the correction" : state.otherName);

function say(text, isError = false) {
  const line = byId("message");
  line.textContent = text;
  line.title = text;
  line.className = isError ? "error" : "";
}

// Every action comes through here: what goes wrong is said.
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
    console.error(error);
  }
  refresh();
}

// A job of the scan that is looked at. `done` hears whether it still is, and of which scan the job was if not.
async function work(start, done) {
  if (state.isBusy) throw new Error("Something is at work: wait until it ends, or press Stop. What you moved is kept.");
  state.isBusy = true;
  const scan = state.current;
  const { name } = state.scans.find((each) => each.id === scan);
  refresh();
  try {
    const job = await start();
    byId("progress").querySelector("button").onclick = () => api.stop(job.job);
    const result = await api.finished(job, tellProgress);
    const isHere = await reload(scan);
    await done(result, isHere, isHere ? "" : ` in ${name}`);
  } catch (error) {
    scene.sendAgain();
    throw scan === state.current ? error : new Error(`${name}: ${error.message}`);
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

let turn = Promise.resolve();

// One after the other: of two that change at once what is shown, one's picture could lie under the other's masks.
function inTurn(change) {
  const mine = turn.then(change);
  turn = mine.catch(() => {});
  return mine;
}

// While one scan makes room for another, nothing else is asked of either: a key would mean the one that is not seen yet.
async function leaving(change) {
  const count = (by) => {
    state.leaving += by;
    byId("panel").inert = state.leaving > 0;
  };
  count(1);
  try {
    await change();
  } finally {
    count(-1);
  }
}

// Whether the scan may be left: asks where moves would be lost.
async function mayLeave() {
  if (state.leaving || !scene.unsent.length) return true;
  const names = scene.unsent.map((placed) => spoken(placed.organ)).join(", ");
  return (await ask(byId("question"), `Moved, but not segmented again: ${names}. These moves would be lost.`, [["Go on without them", true]])) ?? false;
}

// Of several scans that are asked for while one loads, the last one is loaded.
function open(id) {
  state.wanted = id;
  return leaving(() => inTurn(() => (id === state.wanted ? load(id) : null)));
}

async function load(id) {
  const cover = byId("loading");
  cover.hidden = false;
  cover.textContent = "Loading…";
  say("");
  if (scene.marking) keepDraft();
  try {
    const told = await askFor(id, "");
    await scene.show(await api.volume(id), told.about);
    Object.assign(state, { current: id, grown: null, chosen: new Set(), drafts: told.about.draft });
    showResult(told);
    cover.hidden = true;
    const next = nextOpen(state.scans, id);
    if (next !== null) api.readAhead(next).catch(() => {}); // it will be said when that scan is opened
  } catch (error) {
    Object.assign(state, { current: id, about: null });
    scene.clear();
    cover.textContent = error.message;
    throw error;
  }
}

// What the server has of a scan now, whole before any of it is shown. `which`: the result to compare with, "" for none.
async function askFor(id, which) {
  const about = await api.about(id);
  const other = which in about.others ? which : "";
  return { about, other, labels: await labelsOf(about, "result"), otherLabels: await labelsOf(about, other) };
}

async function labelsOf(about, which) {
  const organs = which === "result" ? about.organs : about.others[which]?.organs ?? [];
  return organs.some((organ) => organ.label) ? api.labels(about.id, which) : null;
}

function showResult({ about, other, labels, otherLabels }) {
  Object.assign(state, { about, marked: about.marked });
  scene.setOrgans(about.organs, labels);
  showOther(other, otherLabels);
}

function showOther(which, labels) {
  state.other = which;
  scene.setOther(state.about.others[which]?.organs ?? [], labels);
}

// Shows what a scan's result is now, if that scan is still looked at; gives whether it is.
function reload(scan) {
  return inTurn(async () => {
    await loadDesk();
    if (scan !== state.current || !state.about) return false;
    showResult(await askFor(scan, state.other));
    return true;
  });
}

function compareWith(which) {
  return inTurn(async () => state.about && showOther(which, await labelsOf(state.about, which)));
}

const actions = {
  refresh,
  find: () => attempt(async () => {
    const placed = scene.organs.filter((organ) => organ.verdict === "given").map((organ) => spoken(organ.name));
    const text = `Placed by hand: ${placed.join(", ")}. Looked for again, they would lose their boxes and masks.`;
    const choices = [["Keep them, find the others", "others"], ["Find them too", "all"]];
    const choice = placed.length ? await ask(byId("question"), text, choices) : "others";
    if (!choice) return;
    await work(() => api.find(state.current, [], choice === "all"), ({ organs }, isHere, where) => {
      say(`Found and painted ${organs.length} organs${where}; saved.`);
    });
  }),
  segment: () => {
    const { unsent } = scene;
    if (unsent.length) segment(Object.fromEntries(unsent.map((placed) => [placed.organ, placed.said])));
  },
  segmentPoints: () => {
    const { marking } = scene;
    if (!marking?.isWhole) return;
    segment({ [marking.organ]: { points: marking.six } }, () => {
      if (scene.marking !== marking) return; // another organ is being marked by now
      keepDraft();
      scene.mark(null);
      scene.select(marking.organ);
    });
  },
  undo: () => {
    if (scene.marking) {
      scene.marking.undo();
      scene.markingChanged();
    } else scene.undoMove();
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
    const { points } = marking;
    const scan = state.current;
    const { file, folder } = await api.savePoints(scan, { [marking.organ]: marking.six });
    if (marking.points === points) marking.isChanged = false;
    await inTurn(async () => {
      await loadDesk();
      const { marked } = await api.about(scan);
      if (scan !== state.current) return;
      state.marked = marked;
      if (!marking.isChanged) delete state.drafts[marking.organ];
    });
    say(`Saved ${file} in ${folder}.`);
  }),
  add: () => attempt(() => work(() => api.add(state.current, [...state.chosen]), (result, isHere, where) => {
    if (isHere) Object.assign(state, { grown: result, chosen: new Set() });
    say(`Added${where} to the templates in ${result.folder}.`);
  })),
  chooseAll: () => {
    const all = scene.organs.filter((organ) => organ.label && organ.volume_ml).map((organ) => organ.name);
    state.chosen = new Set(state.chosen.size ? [] : all);
    refresh();
  },
  open: (id) => attempt(async () => {
    if (await mayLeave()) await open(id);
  }),
  decide: (decision) => attempt(async () => {
    if (state.leaving || (decision && decision !== "correct" && !(await mayLeave()))) return;
    await leaving(async () => {
      const scan = state.current;
      await api.decide(scan, decision, "");
      state.scans.find((each) => each.id === scan).decision = decision ?? undefined;
      if (decision === "correct") chooseWorst();
      else if (decision) {
        const next = nextOpen(state.scans, scan);
        if (next === null) say("All scans are decided.");
        else await open(next);
      }
    });
  }),
};

function segment(organs, then = () => {}) {
  const start = () => {
    scene.send(Object.keys(organs));
    return api.segment(state.current, organs);
  };
  attempt(() => work(start, (result, isHere, where) => {
    if (isHere) then();
    say(`Painted ${result.organs.join(", ")}${where}; saved in ${result.out}.`);
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
  const place = state.scans.findIndex((scan) => scan.id === state.wanted) + by;
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
  for (const [id, panel] of [["organs", organsPanel], ["marking", markingPanel], ["growth", growthPanel]]) {
    if (about) panel(byId(id), scene, state, actions);
    else byId(id).replaceChildren();
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
  if (event.target.matches("input, select, textarea") || document.querySelector("dialog[open]") || event.altKey) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !state.leaving) {
    event.preventDefault();
    actions.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (state.leaving && key !== "n" && key !== "p") return;
  if ((key === "Enter" || key === " ") && event.target.matches("button")) return;
  // a scan that cannot be loaded can be decided about, and left
  const handler = (scene.frame ? KEYS[key] : undefined) ?? (state.scans.length > 1 ? COHORT_KEYS[key] : undefined);
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
  window.addEventListener("beforeunload", (event) => (scene.unsent.length || (scene.marking?.isWhole && scene.marking.isChanged)) && event.preventDefault());
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
