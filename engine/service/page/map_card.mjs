/** The card of one galaxy on a map: beside the pointer, or kept where somebody clicked. */

import { make } from "./dom.mjs";

const SIDE_PIXELS = 132;
const HOVER_MS = 70;

/**
 * Make the card.
 * @returns {{element: HTMLElement, hover: function(number), pin: function(number), move: function}} Rows; -1 for none.
 */
export function cardOf({ points, camera, ids, pictures, value }) {
  const element = make("div", { className: "map-card", role: "status", hidden: true });
  let row = -1, isPinned = false, timer;

  async function show(next) {
    if (next === row) return;
    row = next;
    element.hidden = row < 0;
    if (row < 0) return;
    place();
    element.replaceChildren(make("span", { className: "picture loading" }));
    const [known] = await ids.of([next]);
    if (row !== next) return;
    const name = known.object_id, frame = make("span", { className: "picture loading" });
    element.replaceChildren(frame, make("a", { href: `#/search?${new URLSearchParams({ q: name })}` }, name), make("span", { className: "hint" }, value(next)));
    try {
      frame.append(make("img", { src: await pictures.of(name, SIDE_PIXELS), alt: `Galaxy ${name}` }));
    } catch (error) {
      frame.classList.add("missing");
      frame.append(make("span", { className: "reason" }, error.message));
    }
    frame.classList.remove("loading");
  }

  function move() {
    if (row < 0) return;
    if (!isPinned && !element.hidden) return hide();
    place();
  }

  function hide() {
    row = -1;
    element.hidden = true;
  }

  function place() {
    const { x, y } = camera.toStage(points.position(row));
    const isLeft = x > camera.width / 2, isUp = y > camera.height / 2;
    element.style.left = `${x}px`;
    element.style.top = `${y}px`;
    element.style.transform = `translate(${isLeft ? "calc(-100% - 12px)" : "12px"}, ${isUp ? "calc(-100% - 12px)" : "12px"})`;
  }

  const showQuietly = (next) => show(next).catch(hide);
  return {
    element,
    move,
    hover(next) {
      if (isPinned) return;
      clearTimeout(timer);
      timer = setTimeout(() => showQuietly(next), HOVER_MS);
    },
    pin(next) {
      clearTimeout(timer);
      isPinned = next >= 0;
      element.classList.toggle("pinned", isPinned);
      showQuietly(next);
    },
  };
}
