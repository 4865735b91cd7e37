/** The gallery: neighbours, the nearest first; more of them as one scrolls, to choose from and to go on from. */

import { announce, make } from "./dom.mjs";
import { links } from "./object.mjs";

/** Asked for one after the other; 10,000 is the most that any service answers with. */
const STEPS = [40, 100, 250, 500, 1000, 2000, 5000, 10000];
const TILE_PIXELS = 200;
const EARLY_PIXELS = 800;
const MOVES = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

/**
 * Make a gallery.
 * @param {object} answer What is known already.
 * @param {function(number, AbortSignal): Promise<object>} more Asks for so many neighbours.
 * @param {function} picture
 * @param {AbortSignal} signal
 * @returns {{element: HTMLElement, rows: object[], chosen: Set<number>, events: EventTarget, choose: function}}
 *   `chosen` are ranks; `events` tell of `change` in rows and chosen ones.
 */
export function gallery({ answer, more, picture, signal }) {
  const list = make("ol", { className: "gallery", ariaLabel: "Neighbours, the nearest first" });
  const end = make("p", { className: "end", role: "status" });
  const events = new EventTarget();
  const found = { element: make("div", {}, list, end), rows: [], chosen: new Set(), events, choose };
  const changed = () => events.dispatchEvent(new Event("change"));

  function add(rows) {
    const fresh = rows.slice(found.rows.length);
    found.rows.push(...fresh);
    list.append(...fresh.map((row) => tile(row, picture)));
    if (list.children.length && !list.querySelector("[tabindex='0']")) makeCurrent(list.firstElementChild);
    changed();
  }

  function choose(isChosen) {
    for (const box of list.querySelectorAll("input")) box.checked = isChosen;
    found.chosen.clear();
    if (isChosen) for (const row of found.rows) found.chosen.add(row.rank);
    changed();
  }

  function makeCurrent(item) {
    for (const one of [...list.querySelectorAll("[tabindex='0']")]) one.tabIndex = -1;
    for (const one of item.querySelectorAll("a, input")) one.tabIndex = 0;
  }

  list.onchange = ({ target }) => {
    const rank = Number(target.value);
    if (target.checked) found.chosen.add(rank);
    else found.chosen.delete(rank);
    changed();
  };
  list.addEventListener("focusin", ({ target }) => makeCurrent(target.closest("li")));
  list.onkeydown = (event) => {
    const item = event.target.closest("li");
    if ((event.key === " " || event.key === "x") && event.target.matches("a.neighbour")) item.querySelector("input").click();
    else if (!moveFocus(list, item, event.key)) return;
    event.preventDefault();
  };

  const growing = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    const k = STEPS.find((step) => step > found.rows.length);
    growing.unobserve(end);
    end.textContent = "More …";
    try {
      const before = found.rows.length;
      const { neighbours } = await more(k, signal);
      add(neighbours);
      end.textContent = "";
      if (neighbours.length < k) end.textContent = `These are all ${found.rows.length}.`;
      else if (k < STEPS.at(-1)) growing.observe(end);
      announce(`${found.rows.length - before} more, ${found.rows.length} in all`);
    } catch (error) {
      // A service has a limit of its own, below the last step.
      if (signal.aborted) return;
      end.textContent = error.status === 422 ? `This service lists no more than these ${found.rows.length}.` : error.message;
    }
  }, { rootMargin: `${EARLY_PIXELS}px` });
  signal.addEventListener("abort", () => growing.disconnect());
  add(answer.neighbours);
  if (STEPS.includes(found.rows.length)) growing.observe(end);
  else end.textContent = found.rows.length ? `These are all ${found.rows.length}.` : "There are no neighbours.";
  return found;
}

function tile(row, picture) {
  const name = row.object_id;
  return make("li", {},
    make("a", { className: "neighbour", href: `#/search?${new URLSearchParams({ q: name })}`, tabIndex: -1 },
      picture(name, TILE_PIXELS),
      make("span", { className: "caption" },
        make("span", { className: "name" }, name),
        make("span", { className: "distance", title: "L1 distance" }, row.distance.toFixed(2)))),
    make("input", { type: "checkbox", value: row.rank, tabIndex: -1, ariaLabel: `Select ${name}` }),
    links(row.ra_deg, row.dec_deg, { isShort: true, tabIndex: -1 }));
}

function moveFocus(list, item, key) {
  const items = [...list.children], at = items.indexOf(item);
  const columns = items.filter((one) => one.offsetTop === items[0].offsetTop).length;
  const move = { ...MOVES, ArrowUp: -columns, ArrowDown: columns }[key];
  if (move === undefined) return false;
  const next = items[Math.max(0, Math.min(items.length - 1, at + move))];
  next.querySelector("a").focus();
  return true;
}
