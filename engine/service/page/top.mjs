/** The current best of a campaign, as a strip of pictures. */

import { address, read } from "./api.mjs";
import { make } from "./dom.mjs";

const N_SHOWN = 100;
const TILE_PIXELS = 112;

/** Make the strip; it stays hidden where the service ranks nothing, or nothing yet. */
export function topStrip(path, picture, signal) {
  const list = make("ol", { className: "strip", tabIndex: 0, ariaLabel: "Current best, the first is the best" });
  const element = make("section", { className: "top", hidden: true }, make("h2", {}, "Current best"), list);

  async function refresh() {
    let found;
    try {
      found = await read(address(`${path}/ranking`, { n: N_SHOWN }), { signal });
    } catch {
      return; // What is shown is still the best that is known.
    }
    element.hidden = !found.ranked.length;
    list.replaceChildren(...found.ranked.map((one) => make("li", {},
      make("a", { href: `#/search?${new URLSearchParams({ q: one.object_id })}`, title: one.object_id },
        picture(one.object_id, TILE_PIXELS),
        make("span", { className: "caption" },
          make("span", {}, String(one.rank)),
          make("span", { title: "expected rating" }, one.mean.toFixed(1)))))));
  }
  return { element, refresh };
}
