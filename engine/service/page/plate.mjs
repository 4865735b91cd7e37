/** The plate: one picture, large, that can be stretched, inverted and magnified. */

import { make } from "./dom.mjs";

const STRETCHES = { linear: (t) => t, sqrt: Math.sqrt, asinh: (t) => Math.asinh(10 * t) / Math.asinh(10) };
const NAMES = Object.keys(STRETCHES);
const ZOOMS = [1, 2, 4];

/** A canvas and how a picture is shown on it. */
export class Plate {
  element = make("canvas", { className: "plate", role: "img" });
  stretch = NAMES[0];
  isInverted = false;
  zoom = ZOOMS[0];
  #bitmap = null;

  /** Show a picture, as everything was set. */
  show(bitmap, label) {
    this.#bitmap = bitmap;
    this.element.ariaLabel = label;
    this.#draw();
  }

  /** Show nothing. */
  clear(label) {
    this.#bitmap = null;
    this.element.ariaLabel = label;
    this.element.getContext("2d").clearRect(0, 0, this.element.width, this.element.height);
  }

  nextStretch() {
    this.stretch = after(NAMES, this.stretch);
    this.#draw();
  }

  nextZoom() {
    this.zoom = after(ZOOMS, this.zoom);
    this.#draw();
  }

  invert() {
    this.isInverted = !this.isInverted;
    this.#draw();
  }

  #draw() {
    if (!this.#bitmap) return;
    const { width, height } = this.#bitmap;
    Object.assign(this.element, { width, height });
    const context = this.element.getContext("2d", { willReadFrequently: true });
    const shown = [width / this.zoom, height / this.zoom];
    context.drawImage(this.#bitmap, (width - shown[0]) / 2, (height - shown[1]) / 2, ...shown, 0, 0, width, height);
    const image = context.getImageData(0, 0, width, height);
    recolour(image.data, STRETCHES[this.stretch], this.isInverted);
    context.putImageData(image, 0, 0);
  }
}

/** Change the red, green and blue of pixels in place. */
function recolour(data, stretch, isInverted) {
  const table = Uint8ClampedArray.from({ length: 256 }, (_, value) => {
    const stretched = 255 * stretch(value / 255);
    return isInverted ? 255 - stretched : stretched;
  });
  for (let at = 0; at < data.length; at += 4) {
    for (let band = at; band < at + 3; band += 1) data[band] = table[data[band]];
  }
}

const after = (list, one) => list[(list.indexOf(one) + 1) % list.length];
