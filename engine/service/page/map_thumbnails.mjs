/** Pictures on a map, where there is room for them: none overlaps another, and those that were there stay. */

import { address, read } from "./api.mjs";
import { make } from "./dom.mjs";
import { fetchPicture, sideFor } from "./images.mjs";

/** Sides of pictures, and up to how many galaxies in sight they are so large. */
const SIDES = [[144, 30], [104, 120], [72, Infinity]];
const GAP_PIXELS = 6;
const MOST = 120;
const SETTLED_MS = 200;
/** More galaxies in sight than this are points: their pictures would say little of what lies around them. */
const MOST_IN_SIGHT = 3000;
const KEPT = 600;

/** Ids of points by row, asked for together and remembered. */
export class Ids {
  #known = new Map();

  constructor(about, signal) {
    Object.assign(this, { about, signal });
  }

  async of(rows) {
    const missing = rows.filter((row) => !this.#known.has(row));
    for (let at = 0; at < missing.length; at += 200) {
      const part = missing.slice(at, at + 200);
      const { objects } = await read(address("v1/map/ids", { row: part }), { signal: this.signal });
      for (const one of objects) this.#known.set(one.row, one);
    }
    return rows.map((row) => this.#known.get(row));
  }
}

/** Pictures by id, as URLs of blobs, the newest few hundred. */
export class Pictures {
  #urls = new Map();

  constructor(signal) {
    this.signal = signal;
    signal.addEventListener("abort", () => [...this.#urls.values()].forEach((url) => url.then(URL.revokeObjectURL, () => {})));
  }

  /** URL of a picture; rejects where there is none. */
  of(id, cssPixels) {
    const key = `${cssPixels} ${id}`;
    if (!this.#urls.has(key)) {
      const url = fetchPicture(id, sideFor(cssPixels), this.signal).then((blob) => URL.createObjectURL(blob));
      url.catch(() => {});
      this.#urls.set(key, url);
      if (this.#urls.size > KEPT) {
        const [oldest, old] = this.#urls.entries().next().value;
        this.#urls.delete(oldest);
        old.then(URL.revokeObjectURL, () => {});
      }
    }
    return this.#urls.get(key);
  }
}

/**
 * Keep pictures on a map.
 * @returns {{element: HTMLElement, update: function, wanted: boolean}} `update` after every move.
 */
export function thumbnails({ points, camera, ids, pictures, signal }) {
  const element = make("div", { className: "map-pictures" }), shown = new Map();
  const layer = { element, update, wanted: true };
  let timer, side = SIDES.at(-1)[0];

  function move() {
    for (const [row, tile] of shown) {
      const { x, y } = camera.toStage(points.position(row));
      tile.style.transform = `translate(${x - side / 2}px, ${y - side / 2}px)`;
    }
  }

  function update() {
    move();
    clearTimeout(timer);
    timer = setTimeout(() => choose().catch(() => {}), SETTLED_MS);
  }

  async function choose() {
    if (signal.aborted) return;
    const box = camera.seen();
    const inSight = layer.wanted && points.n && !points.isMoreThan(MOST_IN_SIGHT, box) ? points.within(box) : [];
    side = SIDES.find(([, most]) => inSight.length <= most)[0];
    element.style.setProperty("--side", `${side}px`);
    const chosen = inSight.length > MOST_IN_SIGHT ? [] : room(inSight);
    const wanted = new Set(chosen);
    for (const [row, tile] of shown) {
      if (wanted.has(row)) continue;
      tile.remove();
      shown.delete(row);
    }
    const fresh = chosen.filter((row) => !shown.has(row));
    for (const row of fresh) {
      const tile = make("a", { className: "map-picture", tabIndex: -1, draggable: false });
      shown.set(row, tile);
      element.append(tile);
    }
    move();
    for (const { row, object_id: id } of await ids.of(fresh)) fill(shown.get(row), id);
  }

  /** Choose points whose pictures do not overlap: first those that are shown, then in the map's order. */
  function room(rows) {
    const taken = [], apart = side + GAP_PIXELS;
    const inOrder = [...rows.filter((row) => shown.has(row)), ...rows.filter((row) => !shown.has(row))];
    const chosen = [];
    for (const row of inOrder) {
      if (chosen.length === MOST) break;
      const at = camera.toStage(points.position(row));
      if (taken.some((one) => Math.abs(one.x - at.x) < apart && Math.abs(one.y - at.y) < apart)) continue;
      taken.push(at);
      chosen.push(row);
    }
    return chosen;
  }

  async function fill(tile, id) {
    if (!tile) return;
    tile.href = `#/search?${new URLSearchParams({ q: id })}`;
    tile.title = id;
    try {
      tile.append(make("img", { src: await pictures.of(id, SIDES[0][0]), alt: `Galaxy ${id}`, draggable: false }));
    } catch {
      tile.classList.add("missing");
    }
  }

  return layer;
}
