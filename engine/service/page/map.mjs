/** View: map. Every galaxy a point, near those that are like it; pictures when one comes closer. */

import { read } from "./api.mjs";
import { announce, button, make, problemOf } from "./dom.mjs";
import { Camera, movable } from "./map_camera.mjs";
import { chosenPanel, shownValue } from "./map_chosen.mjs";
import { coloured, colours, single } from "./map_colours.mjs";
import { cardOf } from "./map_card.mjs";
import { legend } from "./map_legend.mjs";
import { painterFor } from "./map_painters.mjs";
import { Points, fetched } from "./map_points.mjs";
import { Ids, Pictures, thumbnails } from "./map_thumbnails.mjs";

const NEAR_PIXELS = 12;
/** Between frames: more is jerky, less leaves time for more points; after a pause nothing can be said. */
const SLOW_MS = 45;
const FAST_MS = 22;
const PAUSE_MS = 1000;
const FEWEST = 20_000;
const SETTLED_MS = 300;
const MOST_MARKS = 20_000;
const ALL = "";

/** Show the view; in the address `colour` is a column, and `painter` may be webgl or canvas. */
export async function show(main, { parameters, signal }) {
  useStyle();
  main.replaceChildren(make("p", { className: "waiting", role: "status" }, "Looking …"));
  let about;
  try {
    about = await read("v1/map", { signal });
  } catch (error) {
    if (error.reason !== "no-map") throw error;
    main.replaceChildren(make("h1", {}, "Map"), make("p", { className: "lead" }, "This release has no map yet. ", make("code", {}, "voorwerp map"), " makes one."));
    return;
  }
  await new MapView(main, about, parameters.get("painter"), signal).open(parameters.get("colour") ?? ALL);
}

/** The map on the page: what is seen, what is chosen, and by what it is coloured. */
class MapView {
  column = null;
  rows = [];
  isDrawing = false;
  before = -Infinity;

  constructor(main, about, painter, signal) {
    Object.assign(this, { about, signal });
    this.points = new Points(about);
    this.camera = new Camera(about);
    const ids = new Ids(about, signal), pictures = new Pictures(signal);
    this.canvas = make("canvas", { ariaHidden: "true" });
    this.marks = make("canvas", { ariaHidden: "true", className: "map-marks" });
    this.thumbnails = thumbnails({ points: this.points, camera: this.camera, ids, pictures, signal });
    this.card = cardOf({ points: this.points, camera: this.camera, ids, pictures, value: (row) => this.#value(row) });
    this.stage = make("div", {
      className: "map-stage", tabIndex: 0, role: "application",
      ariaLabel: `Map of ${about.n_objects} galaxies. Arrow keys move, plus and minus zoom, 0 shows all, Enter tells what is in the middle, L draws around galaxies.`,
    }, this.canvas, this.thumbnails.element, this.marks, this.card.element);
    this.chosen = chosenPanel(about, () => this.#choose([]), signal);
    this.legend = legend((low, high) => this.#recolour(low, high));
    this.state = make("span", { className: "hint map-state", role: "status" });
    main.replaceChildren(make("h1", { className: "unseen" }, "Map"), this.#bar(), make("div", { className: "map-frame" }, this.stage, this.legend.element), this.chosen.element);
    this.painter = painterFor(this.canvas, painter);
    this.stage.dataset.painter = this.painter.kind;
    this.canvas.addEventListener("webglcontextlost", () => signal.aborted || dispatchEvent(new HashChangeEvent("hashchange")));
    this.painter.reserve(about.n_points);
    this.most = about.n_points;
    signal.addEventListener("abort", () => this.#close());
  }

  /** Fetch the points, and let the person look at once. */
  async open(column) {
    this.#paintColours();
    this.#listen();
    this.#resize();
    for await (const [start, positions] of fetched(this.about, null, this.signal)) {
      if (this.signal.aborted) return;
      this.points.add(start, positions);
      this.painter.place(start, positions);
      this.painter.number(start, new Uint8Array(positions.length / 2).fill(1));
      this.#tell();
      this.#paintSoon();
      this.thumbnails.update();
    }
    this.stage.dataset.ready = "true";
    if (this.about.columns.some((one) => one.name === column)) await this.#colourBy(column);
  }

  #bar() {
    const choice = make("select", { id: "map-colour" }, make("option", { value: ALL }, "one colour"),
      ...this.about.columns.map(({ name }) => make("option", { value: name }, name)));
    choice.onchange = () => this.#colourBy(choice.value).catch((error) => announce(error.message));
    this.choice = choice;
    const pictured = make("input", { type: "checkbox", checked: true });
    pictured.onchange = () => {
      this.thumbnails.wanted = pictured.checked;
      this.thumbnails.update();
    };
    this.drawButton = button("Draw around", () => this.#drawMode(!this.isDrawing), { title: "Or hold Shift and drag; key L", ariaPressed: "false" });
    return make("div", { className: "map-bar" },
      make("label", {}, "Colour ", choice),
      make("label", { className: "check" }, pictured, " Pictures"),
      make("span", { className: "group" }, this.drawButton,
        button("Choose what is in sight", () => this.#choose(this.points.within(this.camera.seen()))),
        button("+", () => this.camera.zoomBy(1.5), { ariaLabel: "Closer" }),
        button("−", () => this.camera.zoomBy(1 / 1.5), { ariaLabel: "Further" }),
        button("All", () => this.camera.reset())),
      this.state);
  }

  #listen() {
    const { signal, camera, stage } = this;
    camera.addEventListener("change", () => {
      this.#paintSoon();
      this.thumbnails.update();
      this.card.move();
    });
    movable(stage, camera, {
      click: (place) => this.card.pin(this.#near(place)),
      enter: () => this.card.pin(this.#nearMiddle()),
      hover: (place) => this.card.hover(place ? this.#near(place) : -1),
      draws: () => this.isDrawing,
      draw: (places) => this.#paintMarks(places),
      drawn: (places) => this.#choose(this.points.inside(places.map((place) => camera.toMap(place)))),
    });
    stage.addEventListener("keydown", (event) => {
      if (event.key === "l" && event.target === stage) this.#drawMode(!this.isDrawing);
      else if (event.key === "Escape") {
        this.#drawMode(false);
        this.card.pin(-1);
      }
    });
    const resized = new ResizeObserver(() => this.#resize());
    resized.observe(stage);
    const themed = new MutationObserver(() => {
      this.#paintColours();
      this.#paintSoon();
    });
    themed.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    signal.addEventListener("abort", () => {
      resized.disconnect();
      themed.disconnect();
    });
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!width || !height) return;
    this.pixels = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of [this.canvas, this.marks]) {
      canvas.width = Math.round(width * this.pixels);
      canvas.height = Math.round(height * this.pixels);
    }
    this.camera.resize(width, height);
  }

  /** Paint in the next frame: while things move no more points than this machine paints smoothly, then all. */
  #paintSoon() {
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = null;
      const gap = now - this.before;
      this.before = now;
      if (gap > SLOW_MS && gap < PAUSE_MS) this.most = Math.max(FEWEST, Math.round(this.most * Math.max(0.4, SLOW_MS / gap)));
      else if (gap < FAST_MS) this.most = Math.min(this.about.n_points, Math.round(this.most * 1.1));
      this.#paint(Math.min(this.points.n, this.most));
      clearTimeout(this.settled);
      this.settled = setTimeout(() => {
        this.before = -Infinity;
        if (this.most < this.points.n) this.#paint(this.points.n);
      }, SETTLED_MS);
    });
  }

  #paint(n) {
    const { camera, canvas, pixels } = this, { left, right, bottom, top } = camera.seen();
    const { x_min, x_max, y_min, y_max, n_points: nPoints } = this.about;
    const overlap = Math.max(0, Math.min(right, x_max) - Math.max(left, x_min)) * Math.max(0, Math.min(top, y_max) - Math.max(bottom, y_min));
    const share = Math.max(1e-6, overlap / ((x_max - x_min) * (y_max - y_min) || 1));
    // Points are as large as the space that each has, if they were spread over what is seen.
    const room = Math.sqrt(camera.width * camera.height / Math.max(1, nPoints * share));
    const size = Math.max(1.2, Math.min(7, 0.6 * room));
    this.painter.paint(n, {
      centre: camera.centre, scale: camera.scale * pixels, widthPixels: canvas.width, heightPixels: canvas.height,
      sizePixels: size * pixels, opacity: Math.max(0.35, Math.min(0.9, 0.3 * room)),
    });
    this.#paintMarks();
  }

  /** Paint what was chosen, and a line that is being drawn. */
  #paintMarks(line) {
    const { camera, marks, pixels } = this, context = marks.getContext("2d");
    context.setTransform(pixels, 0, 0, pixels, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    const style = getComputedStyle(this.stage);
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--mark");
    for (const row of this.rows.slice(0, MOST_MARKS)) {
      const { x, y } = camera.toStage(this.points.position(row));
      if (x > 0 && y > 0 && x < camera.width && y < camera.height) context.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
    if (!line) return;
    context.lineWidth = 2;
    context.beginPath();
    for (const { x, y } of line) context.lineTo(x, y);
    context.closePath();
    context.stroke();
    context.globalAlpha = 0.12;
    context.fill();
    context.globalAlpha = 1;
  }

  #paintColours() {
    const { theme } = document.documentElement.dataset, known = theme === "light" ? "light" : "dark";
    const table = this.column ? colours(known) : single(known);
    this.painter.colours(table);
    this.legend.paint(colours(known));
  }

  async #colourBy(name) {
    this.choice.value = name;
    const parameters = new URLSearchParams(location.hash.split("?")[1]);
    if (name) parameters.set("colour", name);
    else parameters.delete("colour");
    history.replaceState(history.state, "", `#/map${parameters.size ? "?" : ""}${parameters}`);
    const asked = this.about.columns.find((one) => one.name === name) ?? null;
    this.asked = asked;
    if (!asked) {
      this.column = null;
      this.legend.show(null);
    } else {
      const values = new Float32Array(this.about.n_points).fill(NaN);
      for await (const [start, some] of fetched(this.about, name, this.signal)) {
        if (this.signal.aborted || this.asked !== asked) return;
        values.set(some, start);
      }
      this.column = { ...asked, values };
      this.legend.show(asked);
      this.painter.number(0, coloured(values, asked.low ?? 0, asked.high ?? 1));
    }
    this.#paintColours();
    this.#paintSoon();
    if (this.rows.length) await this.chosen.show(this.rows, this.column);
  }

  #recolour(low, high) {
    this.painter.number(0, coloured(this.column.values, low, high));
    this.#paintSoon();
  }

  #choose(rows) {
    this.rows = rows;
    this.#drawMode(false);
    this.#paintMarks();
    this.chosen.show(rows, this.column).catch((error) => this.signal.aborted || this.chosen.element.append(problemOf(error)));
  }

  #drawMode(isDrawing) {
    this.isDrawing = isDrawing;
    this.drawButton.ariaPressed = String(isDrawing);
    this.stage.classList.toggle("drawing", isDrawing);
  }

  #near(place) {
    return this.points.n ? this.points.nearest(this.camera.toMap(place), NEAR_PIXELS / this.camera.scale) : -1;
  }

  #nearMiddle() {
    for (let pixels = NEAR_PIXELS; pixels < this.camera.width; pixels *= 2) {
      const row = this.points.n ? this.points.nearest(this.camera.centre, pixels / this.camera.scale) : -1;
      if (row >= 0) return row;
    }
    return -1;
  }

  #value(row) {
    return this.column ? `${this.column.name} ${shownValue(this.column.values[row])}` : "";
  }

  #tell() {
    const { n_objects: nObjects, n_points: nPoints } = this.about, { n } = this.points;
    const all = nObjects.toLocaleString("en-GB"), some = n.toLocaleString("en-GB");
    if (n < nPoints) this.state.textContent = `${some} of ${nPoints.toLocaleString("en-GB")} …`;
    else this.state.textContent = nPoints < nObjects ? `${some} of ${all} galaxies: a fair sample` : `${all} galaxies`;
  }

  #close() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.settled);
    this.painter.release();
  }
}

/** The style of this view, which others do not need. */
function useStyle() {
  if (document.getElementById("map-style")) return;
  document.head.append(make("link", { id: "map-style", rel: "stylesheet", href: new URL("map.css", import.meta.url).href }));
}
