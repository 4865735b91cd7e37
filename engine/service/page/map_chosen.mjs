/** Galaxies that were chosen on a map: how many, the first of them, and what can be done with all. */

import { address, ask, post } from "./api.mjs";
import { beginWith } from "./campaigns.mjs";
import { announce, button, make } from "./dom.mjs";

const FORMATS = [["votable", "VOTable", "vot"], ["csv", "CSV", "csv"], ["parquet", "Parquet", "parquet"]];
const LISTED = 60;
const EXAMPLES = 100;
const KEPT_MS = 60_000;

/**
 * Make the panel.
 * @param {object} about The map.
 * @param {function} clear Chooses nothing.
 * @param {AbortSignal} signal
 * @returns {{element: HTMLElement, show: function(number[], ?object)}} `show` takes rows, and the column with values.
 */
export function chosenPanel(about, clear, signal) {
  const element = make("section", { className: "map-chosen", ariaLabel: "Chosen galaxies", hidden: true });

  async function show(rows, column) {
    element.hidden = rows.length === 0;
    if (!rows.length) return element.replaceChildren();
    // The first of the map's order are a fair sample of them all.
    const taken = rows.slice(0, about.most_rows);
    const table = make("div", { className: "scrolling", tabIndex: 0, role: "region", ariaLabel: "Chosen galaxies" });
    element.replaceChildren(
      make("div", { className: "actions", role: "group", ariaLabel: "Chosen galaxies" },
        make("strong", {}, `${rows.length.toLocaleString("en-GB")} chosen`),
        taken.length < rows.length ? make("span", { className: "badge approximate" }, `the service lists ${taken.length.toLocaleString("en-GB")}: a fair sample`) : null,
        button("Clear", clear),
        make("span", { className: "group" },
          ...FORMATS.map(([format, label, suffix]) => button(label, attempt(() => download(taken, format, suffix)), { title: `Download as ${label}` })),
          button("Copy ids", attempt(() => copyIds(taken))),
          button("Begin a campaign", attempt(() => beginCampaign(taken)), { title: "Galaxies like these: they are its known examples" }))),
      table);
    announce(`${rows.length} galaxies chosen`);
    const { objects } = await post("v1/map/objects", { rows: taken.slice(0, LISTED) }, { signal });
    table.replaceChildren(make("table", {},
      make("thead", {}, line("th", ["Object", "RA (deg)", "Dec (deg)", ...(column ? [column.name] : [])])),
      make("tbody", {}, ...objects.map((one) => line("td", [
        make("a", { href: `#/search?${new URLSearchParams({ q: one.object_id })}` }, one.object_id),
        one.ra_deg.toFixed(6), one.dec_deg.toFixed(6), ...(column ? [shownValue(column.values[one.row])] : []),
      ])))));
    if (rows.length > LISTED) table.append(make("p", { className: "hint" }, `The first ${LISTED}; the files have them all.`));
  }

  const line = (tag, cells) => make("tr", {}, ...cells.map((cell) => make(tag, {}, cell)));

  async function download(rows, format, suffix) {
    const answer = await send(rows, format);
    const href = URL.createObjectURL(await answer.blob());
    make("a", { href, download: `map-${about.release}.${suffix}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), KEPT_MS);
  }

  async function copyIds(rows) {
    const { objects } = await (await send(rows, "json")).json();
    await toClipboard(objects.map((one) => one.object_id).join("\n"));
    announce(`${objects.length} ids are copied`);
  }

  async function beginCampaign(rows) {
    const examples = rows.slice(0, EXAMPLES);
    const { objects } = await (await send(examples, "json")).json();
    beginWith(objects.map((one) => one.object_id));
    announce(`${examples.length} of ${rows.length} galaxies are known examples of a new campaign`);
  }

  function send(rows, format) {
    return ask(address("v1/map/objects", { format }), {
      method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ rows }),
    });
  }

  return { element, show };
}

export const shownValue = (value) => (value === undefined || Number.isNaN(value) ? "–" : String(Number(value.toPrecision(5))));

const attempt = (work) => async ({ target }) => {
  target.disabled = true;
  await work().catch((error) => announce(error.message));
  target.disabled = false;
};

/** Copy text; the clipboard proper is there on encrypted and local pages only. */
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
