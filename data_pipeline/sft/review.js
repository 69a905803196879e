"use strict";
// The state is {clip_id: {decision, failed, time}}; everything else follows from it, and it is saved at every change.
// Text from outside reaches the page through textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const store = "sana-video-sft-review-" + data.page;
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};

let decisions = {}, marks = {}, undo = [], at = 0;
const reviewer = make("input", { id: "reviewer", placeholder: "your name", maxLength: 80, autocomplete: "off" });
const cell = make("select", { id: "cell" });
const bar = make("progress", { max: data.clips.length });
const count = make("span", { id: "count" });
const said = make("span", { id: "said" });
const video = make("video", { loop: true, muted: true, autoplay: true, playsInline: true });
const none = make("div", { id: "none" });
const verdict = make("div", { id: "verdict" });
const stage = make("div", { id: "stage" }, video, none, verdict);
const about = make("p", { id: "about" });
const caption = make("p", { id: "caption" });
const measures = make("table");
const markers = data.criteria.map(([name, label], n) => {
  const button = make("button", { type: "button", onclick: () => mark(n) }, make("kbd", { textContent: n + 1 }), label);
  button.dataset.name = name;
  return button;
});
const key = (sign, text, action, look = "") =>
  make("button", { type: "button", className: look, onclick: action }, make("kbd", { textContent: sign }), text);

const counted = new Map();
for (const clip of data.clips) counted.set(clip.cell, (counted.get(clip.cell) || 0) + 1);
cell.append(make("option", { value: "", textContent: `all cells (${data.clips.length})` }));
for (const [name, n] of [...counted].sort()) cell.append(make("option", { value: name, textContent: `${name} (${n})` }));

document.body.append(
  make("header", {}, make("label", {}, "Reviewer ", reviewer), make("label", {}, "Cell ", cell), bar, count,
    make("button", { type: "button", id: "json", textContent: "Export JSON", onclick: () => give("json") }),
    make("button", { type: "button", id: "csv", textContent: "Export CSV", onclick: () => give("csv") }), said),
  make("main", {}, make("div", {}, stage, about, caption),
    make("aside", {},
      make("section", { className: "keys" }, make("h2", { textContent: "Would you train on it?" }),
        key("a", "accept", () => decide("accept"), "yes"), key("r", "reject", () => decide("reject"), "no"),
        key("u", "undo", back), key("←", "before", () => go(-1)), key("→", "next", () => go(1))),
      make("section", { id: "marks" }, make("h2", { textContent: "What fails" }), ...markers),
      make("section", {}, make("h2", { textContent: "Measured" }), measures))));

const listed = () => data.clips.map((_, i) => i).filter((i) => !cell.value || data.clips[i].cell === cell.value);
const failing = (id) => (decisions[id] ? decisions[id].failed : marks[id] || []);

function save() {
  try {
    localStorage.setItem(store, JSON.stringify({ reviewer: reviewer.value, decisions, marks, at }));
    said.textContent = "saved";
  } catch (error) {
    said.textContent = "not saved here: export before you close the page";
  }
}

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(store) || "{}");
    const ids = new Set(data.clips.map((clip) => clip.clip_id));
    for (const [id, each] of Object.entries(kept.decisions || {})) if (ids.has(id)) decisions[id] = each;
    for (const [id, each] of Object.entries(kept.marks || {})) if (ids.has(id)) marks[id] = each;
    reviewer.value = kept.reviewer || "";
    at = Math.min(Math.max(0, kept.at | 0), data.clips.length - 1);
  } catch (error) {
    said.textContent = "what was saved here cannot be read";
  }
}

function show() {
  const clip = data.clips[at], own = decisions[clip.clip_id];
  if (video.dataset.clip !== clip.clip_id) {
    video.dataset.clip = clip.clip_id;
    if (clip.film) video.src = clip.film;
    else video.removeAttribute("src");
    none.textContent = clip.film ? "" : "this clip does not decode";
  }
  stage.className = own ? own.decision : "";
  verdict.textContent = own ? own.decision + "ed" : "";
  about.replaceChildren(make("b", { textContent: clip.cell }),
    ` · ${clip.source} · ${clip.place}${clip.moves ? " · moves: " + clip.moves : ""} · ${clip.clip_id}`);
  caption.textContent = clip.caption;
  measures.replaceChildren(...clip.measures.map(([name, value]) =>
    make("tr", {}, make("td", { textContent: name }), make("td", { textContent: value }))));
  for (const button of markers) button.setAttribute("aria-pressed", failing(clip.clip_id).includes(button.dataset.name));
  const here = listed(), done = here.filter((i) => decisions[data.clips[i].clip_id]).length;
  bar.max = Math.max(1, here.length);
  bar.value = done;
  count.textContent = `${done} of ${here.length} decided · ${here.indexOf(at) + 1}`;
}

function put(id, decision) {
  undo.push([id, decisions[id], marks[id]]);
  decisions[id] = { decision, failed: failing(id).slice(), time: new Date().toISOString() };
}

function decide(decision) {
  put(data.clips[at].clip_id, decision);
  const here = listed(), from = here.indexOf(at);
  const next = [...here.slice(from + 1), ...here.slice(0, from)].find((i) => !decisions[data.clips[i].clip_id]);
  if (next !== undefined) at = next;
  save();
  show();
}

function mark(n) {
  const id = data.clips[at].clip_id, name = data.criteria[n][0], before = failing(id);
  const after = data.criteria.map(([each]) => each).filter((each) => before.includes(each) !== (each === name));
  undo.push([id, decisions[id], marks[id]]);
  marks[id] = after;
  if (decisions[id]) decisions[id] = { ...decisions[id], failed: after, time: new Date().toISOString() };
  save();
  show();
}

function back() {
  const last = undo.pop();
  if (!last) return;
  const [id, decision, marked] = last;
  if (decision) decisions[id] = decision; else delete decisions[id];
  if (marked) marks[id] = marked; else delete marks[id];
  at = data.clips.findIndex((clip) => clip.clip_id === id);
  if (cell.value && data.clips[at].cell !== cell.value) cell.value = "";
  save();
  show();
}

function go(step) {
  const here = listed();
  at = here[Math.min(Math.max(0, here.indexOf(at) + step), here.length - 1)];
  save();
  show();
}

function exported(kind) {
  const rows = data.clips.filter((clip) => decisions[clip.clip_id]).map((clip) => ({ clip_id: clip.clip_id, ...decisions[clip.clip_id] }));
  const name = reviewer.value.trim();
  if (kind === "json") return JSON.stringify({ kind: data.kind, version: 1, reviewer: name, decisions: rows }, null, 1) + "\n";
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = rows.map((row) => [row.clip_id, row.decision, row.failed.join(" "), name, row.time].map(quoted).join(","));
  return [data.columns.join(","), ...lines].join("\n") + "\n";
}

function give(kind) {
  const name = reviewer.value.trim();
  if (!name || /[<>&"'\u0000-\u001f\u007f]/.test(name)) {
    said.textContent = name ? "a name without < > & and quotation marks, please" : "your name first: a review says whose it is";
    reviewer.focus();
    return;
  }
  if (!Object.keys(decisions).length) {
    said.textContent = "nothing is decided yet";
    return;
  }
  const link = make("a", { download: `review-${data.page}-${name.replace(/[^A-Za-z0-9]+/g, "-")}.${kind}` });
  link.href = URL.createObjectURL(new Blob([exported(kind)], { type: kind === "json" ? "application/json" : "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  said.textContent = `${link.download}: now \`sana-video data sft decide\` it`;
}

document.addEventListener("keydown", (event) => {
  if (event.target === reviewer || event.target === cell || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { a: () => decide("accept"), r: () => decide("reject"), u: back, ArrowLeft: () => go(-1), ArrowRight: () => go(1) };
  const n = "12345678".indexOf(event.key);
  const action = actions[event.key] || (event.key.length === 1 && n >= 0 && n < data.criteria.length && (() => mark(n)));
  if (!action) return;
  event.preventDefault();
  action();
});
reviewer.addEventListener("input", save);
cell.addEventListener("change", () => {
  const here = listed();
  if (!here.includes(at)) at = here[0];
  cell.blur();
  save();
  show();
});
load();
show();
