// What the server can be asked for. Every answer that is none is an Error whose message is for people.

const POLL_MS = 250;

async function ask(method, path, body) {
  let answer;
  try {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    // keepalive: what was sent arrives whole though the page is closed the moment after
    answer = await fetch(path, { method, headers, body: JSON.stringify(body), keepalive: method !== "GET" });
  } catch {
    throw new Error("The program does not answer. Is it still running in its terminal? What was saved is kept.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.detail || `The program refused (${answer.status}).`);
}

const json = async (...words) => (await ask(...words)).json();
const bytes = async (path) => (await ask("GET", path)).arrayBuffer();

export const desk = () => json("GET", "/api/desk");
export const about = (scan) => json("GET", `/api/scans/${scan}`);
export const readAhead = (scan) => json("POST", `/api/scans/${scan}/ahead`);
export const volume = (scan) => bytes(`/api/scans/${scan}/volume`);
export const labels = (scan, which) => bytes(`/api/scans/${scan}/labels/${which}`);
export const draft = (scan, points) => json("PUT", `/api/scans/${scan}/draft`, points);
export const savePoints = (scan, points) => json("POST", `/api/scans/${scan}/points`, { points });
// `placedToo`: look for organs that were placed by hand, too, and lose where they were put.
export const find = (scan, organs, placedToo) => json("POST", `/api/scans/${scan}/find`, { organs, placed_too: placedToo });
export const segment = (scan, organs) => json("POST", `/api/scans/${scan}/segment`, { organs });
export const add = (scan, organs) => json("POST", `/api/scans/${scan}/add`, { organs });
export const decide = (scan, decision, note) => json("PUT", `/api/scans/${scan}/decision`, { decision, note });
export const stop = (job) => json("DELETE", `/api/jobs/${job}`);

// Waits for a job, telling its state as it goes; gives its result.
export async function finished(job, tell) {
  let state = job;
  while (state.state === "waiting" || state.state === "running") {
    tell(state);
    await new Promise((resume) => setTimeout(resume, POLL_MS));
    state = await json("GET", `/api/jobs/${job.job}`);
  }
  if (state.state === "failed") throw new Error(state.error);
  return state.result;
}
