/** The desk beside a plate: a button and a key for everything that can be done with a galaxy. */

import { button, facts, isTyping, make } from "./dom.mjs";

const MEANINGS = { 0: ", dull", 5: ", fascinating" };
const STRETCHES = { linear: "Linear", sqrt: "Square root", asinh: "Asinh" };
const ARROWS = { ArrowLeft: "←", ArrowRight: "→" };
const KEYS = [
  ["0 … 5", "rate: 0 is dull, 5 fascinating"],
  ["u", "take back the last rating"],
  ["→ or space", "skip"],
  ["←", "back; rate again to change"],
  ["z", "zoom: 1, 2, 4 times"],
  ["i", "invert"],
  ["s", "stretch: linear, square root, asinh"],
  ["?", "these keys"],
];

/**
 * Make the desk.
 * @param {Plate} plate
 * @param {{rate: function(number), undo: function, back: function, skip: function}} does
 * @param {AbortSignal} signal
 * @returns {{elements: HTMLElement[], update: function({isThere, canUndo, canGoBack, rating})}}
 */
export function desk(plate, does, signal) {
  const ratings = [0, 1, 2, 3, 4, 5].map((value) =>
    button(String(value), () => does.rate(value), { className: "rating", ariaLabel: `Rate ${value}${MEANINGS[value] ?? ""}` }));
  const zoom = tool("z", "Zoom", retouch(() => plate.nextZoom()));
  const invert = tool("i", "Invert", retouch(() => plate.invert()));
  const stretch = tool("s", STRETCHES.linear, retouch(() => plate.nextStretch()));
  const undo = tool("u", "Undo", does.undo);
  const back = tool("ArrowLeft", "Back", does.back), skip = tool("ArrowRight", "Skip", does.skip);
  const help = keysDialog();
  const tools = [undo, back, skip, zoom, invert, stretch, tool("?", "Keys", () => help.showModal())];

  function retouch(work) {
    return () => {
      work();
      zoom.firstChild.textContent = plate.zoom === 1 ? "Zoom" : `Zoom ${plate.zoom}×`;
      stretch.firstChild.textContent = STRETCHES[plate.stretch];
      invert.setAttribute("aria-pressed", String(plate.isInverted));
    };
  }

  function update({ isThere, canUndo, canGoBack, rating }) {
    for (const one of [...ratings, skip]) one.disabled = !isThere;
    undo.disabled = !canUndo;
    back.disabled = !canGoBack;
    ratings.forEach((one, value) => one.setAttribute("aria-pressed", String(value === rating)));
  }

  const keys = { " ": skip };
  for (const one of tools) keys[one.dataset.key] = one;
  ratings.forEach((one, value) => { keys[value] = one; });
  addEventListener("keydown", (event) => {
    if (isTyping(event) || (event.key === " " && event.target.matches("button, a"))) return;
    const pressed = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!pressed || pressed.disabled) return;
    event.preventDefault();
    pressed.click();
  }, { signal });

  const ends = [make("span", {}, "dull"), make("span", {}, "fascinating")];
  const elements = [
    make("div", { className: "ratings", role: "group", ariaLabel: "Rating" }, ...ratings),
    make("p", { className: "scale", ariaHidden: "true" }, ...ends),
    make("div", { className: "tools", role: "group", ariaLabel: "Tools" }, ...tools),
    help,
  ];
  return { elements, update };
}

function tool(key, label, work) {
  const made = button(make("span", {}, label), work, { "data-key": key, "aria-keyshortcuts": key });
  made.append(make("kbd", { ariaHidden: "true" }, ARROWS[key] ?? key));
  return made;
}

function keysDialog() {
  const dialog = make("dialog", { className: "keys", ariaLabel: "Keys" },
    make("h2", {}, "Keys"),
    facts(KEYS.map(([key, meaning]) => [make("kbd", {}, key), meaning])),
    button("Close", () => dialog.close()));
  return dialog;
}
