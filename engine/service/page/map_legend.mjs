/** The legend of a map: its colours, and between which values they go, to be changed. */

import { make } from "./dom.mjs";

/**
 * Make the legend.
 * @param {function(number, number)} onrange Told of other ends.
 * @returns {{element: HTMLElement, paint: function(Uint8Array), show: function(?object)}}
 */
export function legend(onrange) {
  const bar = make("canvas", { width: 255, height: 1, ariaHidden: "true" }), missing = make("p", { className: "hint" });
  const title = make("strong", {}), [low, high] = ["Lowest", "Highest"].map((label) => make("input", { type: "number", step: "any", ariaLabel: `${label} colour` }));
  const element = make("div", { className: "map-legend", role: "group", ariaLabel: "Colours", hidden: true },
    title, bar, make("span", { className: "map-ends" }, low, high), missing);
  low.onchange = high.onchange = () => {
    if (low.valueAsNumber < high.valueAsNumber) onrange(low.valueAsNumber, high.valueAsNumber);
  };
  return {
    element,
    paint(table) {
      const context = bar.getContext("2d"), image = context.createImageData(255, 1);
      image.data.set(table.subarray(4));
      context.putImageData(image, 0, 0);
    },
    show(column) {
      element.hidden = column === null;
      if (!column) return;
      title.textContent = column.name;
      low.value = Number((column.low ?? 0).toPrecision(4));
      high.value = Number((column.high ?? 1).toPrecision(4));
      missing.textContent = column.n_missing ? `grey: ${column.n_missing.toLocaleString("en-GB")} without a value` : "";
    },
  };
}
