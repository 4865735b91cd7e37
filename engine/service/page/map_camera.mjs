/** What part of a map is seen: moved by pointers, the wheel and keys, and told to whoever paints it. */

const MARGIN = 0.06;
const MOST_ZOOM = 4000;
const WHEEL_PIXELS = 400;
const STEP = 0.15;
const CLICK_PIXELS = 4;

/** A place on a map under the middle of a stage, and how many CSS pixels a unit of the map takes. */
export class Camera extends EventTarget {
  width = 1;
  height = 1;

  constructor(about) {
    super();
    this.about = about;
    this.reset();
  }

  /** See everything. */
  reset() {
    const { x_min: left, x_max: right, y_min: bottom, y_max: top } = this.about;
    this.centre = { x: (left + right) / 2, y: (bottom + top) / 2 };
    this.whole = (1 - 2 * MARGIN) * Math.min(this.width / (right - left || 1), this.height / (top - bottom || 1));
    this.scale = this.whole;
    this.#changed();
  }

  resize(width, height) {
    const zoom = this.scale / this.whole;
    [this.width, this.height] = [width, height];
    const centre = this.centre;
    this.reset();
    this.centre = centre;
    this.scale = this.whole * zoom;
    this.#changed();
  }

  get zoom() {
    return this.scale / this.whole;
  }

  /** Where something on the map is on the stage, in CSS pixels from its top left. */
  toStage({ x, y }) {
    return { x: (x - this.centre.x) * this.scale + this.width / 2, y: (this.centre.y - y) * this.scale + this.height / 2 };
  }

  toMap({ x, y }) {
    return { x: (x - this.width / 2) / this.scale + this.centre.x, y: this.centre.y - (y - this.height / 2) / this.scale };
  }

  /** The rectangle of the map that is seen, and some pixels around it. */
  seen(aroundPixels = 0) {
    const { x: left, y: top } = this.toMap({ x: -aroundPixels, y: -aroundPixels });
    const { x: right, y: bottom } = this.toMap({ x: this.width + aroundPixels, y: this.height + aroundPixels });
    return { left, right, bottom, top };
  }

  pan(dx, dy) {
    this.centre = { x: this.centre.x - dx / this.scale, y: this.centre.y + dy / this.scale };
    this.#changed();
  }

  /** Zoom, with a place of the stage staying where it is. */
  zoomBy(factor, at = { x: this.width / 2, y: this.height / 2 }) {
    const fixed = this.toMap(at);
    this.scale = Math.max(this.whole / 2, Math.min(this.whole * MOST_ZOOM, this.scale * factor));
    const moved = this.toMap(at);
    this.centre = { x: this.centre.x + fixed.x - moved.x, y: this.centre.y + fixed.y - moved.y };
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Let a person move a camera.
 * @param {HTMLElement} stage Takes pointers and keys.
 * @param {Camera} camera
 * @param {object} on `click(place)`, `enter()`, `hover(place or null)`, `draws()` whether a drag draws instead, `draw(places)`,
 *   `drawn(places)`.
 */
export function movable(stage, camera, on) {
  const pointers = new Map();
  let drawing = null, movedPixels = 0;
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const apart = () => {
    const [a, b] = [...pointers.values()];
    return { middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, distance: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest("a, button")) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    movedPixels = 0;
    drawing = pointers.size === 1 && (on.draws() || event.shiftKey) ? [place(event)] : null;
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), now = place(event);
    if (!before) return on.hover(event.target.closest("a, button") ? null : now);
    movedPixels += Math.hypot(now.x - before.x, now.y - before.y);
    if (drawing) {
      drawing.push(now);
      pointers.set(event.pointerId, now);
      return on.draw(drawing);
    }
    const old = pointers.size === 2 ? apart() : null;
    pointers.set(event.pointerId, now);
    if (old) {
      const { middle, distance } = apart();
      camera.pan(middle.x - old.middle.x, middle.y - old.middle.y);
      camera.zoomBy(distance / (old.distance || 1), middle);
    } else if (movedPixels > CLICK_PIXELS) camera.pan(now.x - before.x, now.y - before.y);
  });
  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (drawing && movedPixels > CLICK_PIXELS) on.drawn(drawing);
    else if (event.type === "pointerup" && movedPixels <= CLICK_PIXELS && !pointers.size) on.click(place(event));
    drawing = null;
  };
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, end);
  stage.addEventListener("pointerleave", () => pointers.size || on.hover(null));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = [1, 16, 400][event.deltaMode];
    camera.zoomBy(2 ** (-event.deltaY * lines / WHEEL_PIXELS), place(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => event.target.closest("a, button") || camera.zoomBy(2, place(event)));
  const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  stage.addEventListener("keydown", (event) => {
    if (event.target !== stage || event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) camera.pan(...moves[event.key].map((share) => share * Math.min(camera.width, camera.height)));
    else if (event.key === "+" || event.key === "=") camera.zoomBy(1.5);
    else if (event.key === "-") camera.zoomBy(1 / 1.5);
    else if (event.key === "0") camera.reset();
    else if (event.key === "Enter") on.enter();
    else return;
    event.preventDefault();
  });
}
