/** The points of a map: fetched a little at a time, and found again by where they are. */

import { address, ask } from "./api.mjs";

const FIRST_N = 65_536;
const NEXT_N = 262_144;
const SIDE_CELLS = 512;

/** Read numbers of points, as `GET v1/map/points` answers them. */
async function numbersOf(about, parameters, signal) {
  const answer = await ask(address("v1/map/points", { map: about.map, ...parameters }), { signal });
  return new Float32Array(await answer.arrayBuffer());
}

/** Read positions, or values of a column, of all points; yields [first row, numbers] as they come. */
export async function* fetched(about, column, signal) {
  let start = 0, n = FIRST_N;
  while (start < about.n_points) {
    yield [start, await numbersOf(about, { column, start, n }, signal)];
    start += n;
    n = NEXT_N;
  }
}

/** Points that are there already, the first n of the map's order, which is fair whatever n is. */
export class Points {
  n = 0;

  constructor(about) {
    this.about = about;
    this.xy = new Float32Array(2 * about.n_points);
    this.sidePerCell = Math.max(about.x_max - about.x_min, about.y_max - about.y_min) / SIDE_CELLS || 1;
  }

  add(start, positions) {
    this.xy.set(positions, 2 * start);
    this.n = start + positions.length / 2;
    this.#sort();
  }

  position(row) {
    return { x: this.xy[2 * row], y: this.xy[2 * row + 1] };
  }

  /** Whether a rectangle of the map surely holds more than so many points: without looking at each. */
  isMoreThan(n, { left, right, bottom, top }) {
    const [first, last, low, high] = [this.#cell(left, "x"), this.#cell(right, "x"), this.#cell(bottom, "y"), this.#cell(top, "y")];
    let count = 0;
    for (let row = low + 1; row < high; row += 1) count += this.starts[row * SIDE_CELLS + last] - this.starts[row * SIDE_CELLS + first + 1];
    return count > n;
  }

  /** Rows of the points in a rectangle of the map, ascending. */
  within({ left, right, bottom, top }) {
    const found = [], { xy } = this;
    const [first, last] = [this.#cell(left, "x"), this.#cell(right, "x")];
    for (let row = this.#cell(bottom, "y"); row <= this.#cell(top, "y"); row += 1) {
      for (let at = this.starts[row * SIDE_CELLS + first]; at < this.starts[row * SIDE_CELLS + last + 1]; at += 1) {
        const point = this.order[at], x = xy[2 * point], y = xy[2 * point + 1];
        if (x >= left && x <= right && y >= bottom && y <= top) found.push(point);
      }
    }
    return found.sort((a, b) => a - b);
  }

  /** The row nearest to a place, no further than a radius; -1 where there is none. */
  nearest({ x, y }, radius) {
    let best = -1, least = radius ** 2;
    for (const row of this.within({ left: x - radius, right: x + radius, bottom: y - radius, top: y + radius })) {
      const squared = (this.xy[2 * row] - x) ** 2 + (this.xy[2 * row + 1] - y) ** 2;
      if (squared < least) [best, least] = [row, squared];
    }
    return best;
  }

  /** Rows inside a closed line around some of the map, ascending. */
  inside(line) {
    const xs = line.map((point) => point.x), ys = line.map((point) => point.y);
    const box = { left: Math.min(...xs), right: Math.max(...xs), bottom: Math.min(...ys), top: Math.max(...ys) };
    return this.within(box).filter((row) => {
      const { x, y } = this.position(row);
      let isInside = false;
      for (let at = 0, before = line.length - 1; at < line.length; before = at, at += 1) {
        const crosses = (ys[at] > y) !== (ys[before] > y);
        if (crosses && x < (xs[before] - xs[at]) * (y - ys[at]) / (ys[before] - ys[at]) + xs[at]) isInside = !isInside;
      }
      return isInside;
    });
  }

  #cell(value, axis) {
    return Math.max(0, Math.min(SIDE_CELLS - 1, Math.floor((value - this.about[`${axis}_min`]) / this.sidePerCell)));
  }

  /** Sort the points into the cells of a grid, by counting. */
  #sort() {
    const { n, xy } = this, cells = new Uint32Array(n);
    this.starts = new Uint32Array(SIDE_CELLS ** 2 + 1);
    for (let row = 0; row < n; row += 1) {
      cells[row] = this.#cell(xy[2 * row + 1], "y") * SIDE_CELLS + this.#cell(xy[2 * row], "x");
      this.starts[cells[row] + 1] += 1;
    }
    for (let cell = 0; cell < SIDE_CELLS ** 2; cell += 1) this.starts[cell + 1] += this.starts[cell];
    const next = this.starts.slice();
    this.order = new Uint32Array(n);
    for (let row = 0; row < n; row += 1) this.order[next[cells[row]]++] = row;
  }
}
