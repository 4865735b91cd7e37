/** Pictures of objects: fetched with the token, when they come into view, a few at a time. */

import { address, ask, objectPath } from "./api.mjs";
import { make } from "./dom.mjs";

const MOST_AT_ONCE = 6;
const EARLY_PIXELS = 400;
const waiting = [];
let loading = 0;

/** Pixels of a picture that is shown so large, on this screen. */
export const sideFor = (cssPixels) => Math.min(1024, Math.round(cssPixels * Math.min(devicePixelRatio, 2)));

/**
 * Fetch a picture.
 * @returns {Promise<Blob>}
 * @throws {Problem} where there is none.
 */
export async function fetchPicture(id, side, signal) {
  await turn(signal);
  try {
    return await (await ask(address(`${objectPath(id)}/cutout.jpg`, { side }), { signal })).blob();
  } finally {
    loading -= 1;
    waiting.shift()?.();
  }
}

/**
 * Make the pictures of one view, which are let go of with it.
 * @param {AbortSignal} signal Says that the view is left.
 * @returns {function(string, number): HTMLElement} Makes the frame of an object's picture, given its side in CSS pixels.
 */
export function pictures(signal) {
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      fill(target, signal);
    }
  }, { rootMargin: `${EARLY_PIXELS}px` });
  signal.addEventListener("abort", () => observer.disconnect());
  return (id, cssPixels) => {
    const frame = make("span", { className: "picture loading", "data-id": id, "data-side": sideFor(cssPixels) });
    observer.observe(frame);
    return frame;
  };
}

/** Put an image of one's own into a frame. */
export function framed(blob, alt, signal) {
  const url = URL.createObjectURL(blob);
  signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  return make("span", { className: "picture" }, make("img", { src: url, alt }));
}

async function fill(frame, signal) {
  const { id, side } = frame.dataset;
  try {
    const url = URL.createObjectURL(await fetchPicture(id, Number(side), signal));
    signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    frame.append(make("img", { src: url, alt: `Galaxy ${id}` }));
  } catch (error) {
    if (signal.aborted) return;
    frame.classList.add("missing");
    frame.append(make("span", { className: "reason" }, error.message));
  }
  frame.classList.remove("loading");
}

async function turn(signal) {
  while (loading >= MOST_AT_ONCE) await new Promise((resolve) => { waiting.push(resolve); });
  if (signal?.aborted) {
    waiting.shift()?.();
    throw signal.reason;
  }
  loading += 1;
}
