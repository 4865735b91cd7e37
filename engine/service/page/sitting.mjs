/** A sitting: one galaxy at a time, rated, and the next one is there already. */

import { address, read } from "./api.mjs";
import { Asked } from "./asked.mjs";
import { desk } from "./desk.mjs";
import { announce, button, make, problemOf } from "./dom.mjs";
import { save } from "./files.mjs";
import { fetchPicture, pictures } from "./images.mjs";
import { outboxOf } from "./outbox.mjs";
import { Plate } from "./plate.mjs";
import { topStrip } from "./top.mjs";

const SIDE_PIXELS = 512;
const N_AHEAD = 3;
const STATES = {
  saved: () => "Saved",
  saving: (n) => `Saving ${n} …`,
  offline: (n) => `Offline: ${n} kept here, will try again`,
  locked: (n) => `${n} kept here: a token of a rater is needed`,
};

/** Show a campaign's next galaxies. */
export async function showSitting(main, name, signal) {
  main.replaceChildren(make("p", { className: "waiting", role: "status" }, "Choosing galaxies …"));
  document.title = `Rate ${name} · voorwerp`;
  const path = `v1/campaigns/${encodeURIComponent(name)}`;
  const { config } = await read(path, { signal });
  const { n_ratings: nBefore } = await read(address(`${path}/ratings`, { n: 1 }), { signal });
  const outbox = outboxOf(name), plate = new Plate(), bitmaps = keptBitmaps(signal);
  const asked = new Asked(name, config.batch, outbox, signal);
  const top = topStrip(path, pictures(signal), signal);

  const title = make("p", { className: "object-name" }), place = make("p", { className: "place" });
  const bar = make("progress", { max: 1, value: 0, ariaLabel: "Of this batch" });
  const state = make("p", { className: "save-state", role: "status" });
  const said = make("p", { className: "unseen", role: "status" });
  const problem = make("div", { className: "plate-problem" });
  const stage = make("div", { className: "stage" }, plate.element, problem);
  const does = {
    rate: (value) => isShown && go(() => asked.rate(value)),
    skip: () => isShown && go(() => asked.skip()),
    undo: () => go(() => asked.undo()),
    back: () => go(() => asked.back()),
  };
  const { elements, update } = desk(plate, does, signal);
  const exported = button("Export ratings (CSV)", () =>
    save(address(`${path}/export`, { format: "csv" }), `${name}.csv`).catch((error) => announce(error.message)));
  main.replaceChildren(
    make("div", { className: "sitting-head" }, make("h1", {}, name), place, state), bar,
    make("div", { className: "sitting" }, stage, make("div", { className: "desk" }, title, ...elements)),
    said, top.element, make("p", { className: "row exports" }, exported));

  /** Whether what is asked about is what is seen: nothing else is rated, however fast somebody presses keys. */
  let isShown = false;
  let current = 0, lastBatch = 0;

  function go(move) {
    move();
    return show();
  }

  /** Show the galaxy at the place; if the place changes meanwhile, the last one is shown. */
  async function show() {
    const mine = ++current;
    isShown = false;
    stage.ariaBusy = "true";
    const found = await asked.ready().then(() => bitmaps.of(asked.id)).catch((error) => error);
    if (signal.aborted || mine !== current) return;
    isShown = asked.id !== undefined;
    stage.ariaBusy = "false";
    showPlace();
    if (found instanceof Error) {
      plate.clear("No picture");
      problem.replaceChildren(problemOf(found));
    } else {
      plate.show(found, `Galaxy ${asked.id}`);
      problem.replaceChildren();
    }
    bitmaps.keep(asked.ids.slice(Math.max(0, asked.at - 1), asked.at + N_AHEAD + 1));
  }

  function showPlace() {
    update({ isThere: isShown, canUndo: asked.canUndo, canGoBack: asked.at > 0, rating: asked.ratings.get(asked.id) });
    if (!isShown) return;
    const [position, size] = asked.place;
    title.textContent = asked.id;
    place.textContent = `${position} of ${size} · ${(nBefore + asked.ratings.size).toLocaleString("en-GB")} rated`;
    said.textContent = `${position} of ${size}: ${asked.id}`;
    Object.assign(bar, { max: size, value: position - 1 });
    if (asked.isBatchStart && asked.at > lastBatch) {
      lastBatch = asked.at;
      outbox.empty().then(top.refresh);
    }
  }

  function showState() {
    state.textContent = STATES[outbox.state](outbox.size);
    state.dataset.state = outbox.state;
    const isStuck = current && asked.id === undefined && stage.ariaBusy === "false";
    if (outbox.state === "saved" && isStuck) show();
  }

  outbox.addEventListener("change", showState, { signal });
  outbox.addEventListener("refused", ({ detail }) => announce(`Not saved: ${detail}`), { signal });
  showState();
  showPlace();
  top.refresh();
  await show();
}

/** Pictures that are fetched before they are looked at. */
function keptBitmaps(signal) {
  const kept = new Map();
  const of = (id) => {
    if (!kept.has(id)) kept.set(id, fetchPicture(id, SIDE_PIXELS, signal).then(createImageBitmap));
    return kept.get(id);
  };
  const keep = (ids) => {
    for (const id of ids) of(id).catch(() => kept.delete(id));
    for (const id of kept.keys()) if (!ids.includes(id)) kept.delete(id);
  };
  return { of, keep };
}
