/** The galaxy that was asked about: its picture, large, and what the catalogue says. */

import { objectPath, read } from "./api.mjs";
import { facts, make } from "./dom.mjs";
import { angle, degrees, elsewhere, sexagesimal } from "./positions.mjs";
import { FAR_ARCSEC } from "./question.mjs";

const PICTURE_PIXELS = 480;

/**
 * Make the panel.
 * @param {object} answer Of the service to the question.
 * @param {object} question
 * @param {function} picture
 * @param {AbortSignal} signal
 */
export async function objectPanel(answer, question, picture, signal) {
  const known = await read(objectPath(answer.query_id), { signal });
  const { ra_deg: raDeg, dec_deg: decDeg } = known;
  const rows = [["RA, Dec (deg)", degrees(raDeg, decDeg)], ["RA, Dec (ICRS)", sexagesimal(raDeg, decDeg)]];
  if (answer.match_arcsec !== null) rows.push(["From the position asked", angle(answer.match_arcsec)]);
  const columns = Object.entries(known.columns).filter(([, value]) => value !== null && value !== "");
  return make("article", { className: "object" },
    picture(known.object_id, PICTURE_PIXELS),
    make("div", { className: "about" },
      make("h1", { tabIndex: -1 }, known.object_id),
      question.named ? make("p", { className: "hint" }, `nearest to ${question.named}`) : null,
      farWarning(answer.match_arcsec),
      facts(rows),
      links(raDeg, decDeg),
      columns.length ? catalogue(columns) : null));
}

/** Make links to other services about a position. */
export function links(raDeg, decDeg, { isShort = false, ...properties } = {}) {
  const shared = { target: "_blank", rel: "noopener noreferrer", ...properties };
  return make("p", { className: "elsewhere" }, ...elsewhere(raDeg, decDeg).map(([name, href]) =>
    make("a", { href, title: name, ...shared }, isShort ? name.split(" ")[0] : name)));
}

function farWarning(matchArcsec) {
  if (matchArcsec === null || matchArcsec <= FAR_ARCSEC) return null;
  return make("p", { className: "warning", role: "alert" },
    `The nearest galaxy of this release is ${angle(matchArcsec)} from this position: probably another one than you meant.`);
}

function catalogue(columns) {
  return make("details", { open: true },
    make("summary", {}, `Catalogue: ${columns.length} columns`),
    facts(columns.map(([name, value]) => [name, shown(value)])));
}

function shown(value) {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(7)) : value;
}
