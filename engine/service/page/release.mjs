/** View: release. What is served, what was left out of it, and where it came from. */

import { address, ask, isOpenToEveryone, read } from "./api.mjs";
import { announce, button, facts, make } from "./dom.mjs";
import { save } from "./files.mjs";
import { pictures } from "./images.mjs";

const EXAMPLE_PIXELS = 96;

/** Show the view; parts that a service does not have are left out. */
export async function show(main, { signal }) {
  main.replaceChildren(make("p", { className: "waiting", role: "status" }, "Looking …"));
  const about = await read("v1/release", { signal });
  const [rejects, manifests, card] = await Promise.all([
    ...["v1/release/rejects", "v1/release/manifests"].map((path) => read(path, { signal }).catch(nothing)),
    readCard(about.release, signal).catch(nothing),
  ]);
  main.replaceChildren(make("h1", {}, "Release"), aboutSection(about));
  if (card) main.append(cardSection(card));
  if (rejects) main.append(rejectsSection(rejects, pictures(signal)));
  if (manifests) main.append(manifestsSection(manifests.manifests));
}

function nothing(error) {
  if (error.status !== 404) throw error;
  return null;
}

function aboutSection(about) {
  const saving = (label, path, name) => button(label, () => save(address(path), name).catch((error) => announce(error.message)));
  return make("section", {},
    facts([
      ["Objects", number(about.n_objects)],
      ["Components", about.dimension],
      ["Index", `${about.index_kind}, ${number(about.n_shards)} shards, format ${about.index_format}`],
      ["Indexed", time(about.created_utc)],
      ["Release", code(about.release)],
      ["Index id", code(about.index)],
      ["Components id", code(about.components)],
    ], { className: "facts wide" }),
    make("p", { className: "row" },
      saving("Footprint (MOC, FITS)", "v1/release/footprint.fits", "footprint.fits"),
      saving("Description of the API (OpenAPI)", "v1/openapi.json", "openapi.json")));
}

/** Read the report card of a release, and where it can be seen. */
async function readCard(release, signal) {
  const path = `v1/releases/${release}/report`;
  const answer = await ask(path, { signal });
  return {
    path,
    report: await answer.json(),
    signedBy: answer.headers.get("Voorwerp-Signed-By"),
    isOpen: await isOpenToEveryone(),
  };
}

function cardSection({ path, report, signedBy, isOpen }) {
  const { drift, accounting, findings } = report;
  const name = `report-${report.release}`;
  const saving = (label, suffix, file) => button(label, () =>
    save(address(`${path}${suffix}`), file).catch((error) => announce(error.message)));
  return make("section", { className: "card-of-release" },
    make("h2", {}, "Report card"),
    findings.length
      ? make("ul", { className: "findings" }, ...findings.map((one) => make("li", {}, one)))
      : make("p", {}, "Nothing stands out."),
    facts([
      ["Embedded", `${number(accounting.n_embedded)} of ${number(accounting.n_planned)} planned`],
      ["Tiles of the sky", `${number(drift.n_flagged)} of ${number(drift.n_tiles)} stand out`],
      ["Written", time(report.created_utc)],
      ["Signed by", signedBy ? code(signedBy) : "nobody"],
    ], { className: "facts wide" }),
    drift.flagged.length ? tilesTable(drift.flagged) : null,
    make("p", { className: "row" },
      isOpen ? make("a", { href: address(`${path}.html`), target: "_blank", rel: "noopener" }, "Open the report card") : null,
      saving("Save the report card (HTML)", ".html", `${name}.html`),
      saving("As JSON", "", `${name}.json`)));
}

function tilesTable(tiles) {
  const cells = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, {}, value)));
  const z = (value) => value === null ? "–" : value.toFixed(1);
  return make("div", { className: "scrolling", tabIndex: 0, role: "region", ariaLabel: "Tiles that stand out" }, make("table", {},
    make("thead", {}, cells("th", ["Tile", "RA, Dec (deg)", "Objects", "z of mean", "z of spread", "Stands out by"])),
    make("tbody", {}, ...tiles.map((one) => cells("td", [
      code(one.tile),
      make("a", { href: `#/search?${new URLSearchParams({ q: `${one.ra_deg.toFixed(4)} ${one.dec_deg.toFixed(4)}` })}` },
        `${one.ra_deg.toFixed(3)}, ${one.dec_deg.toFixed(3)}`),
      number(one.n_objects),
      z(one.z_mean),
      z(one.z_spread),
      one.flags.join(", "),
    ])))));
}

function rejectsSection({ n_rejected: nRejected, by_reason: reasons }, picture) {
  return make("section", {},
    make("h2", {}, "Left out"),
    make("p", {}, nRejected
      ? `${number(nRejected)} planned objects were left out, each with its reason.`
      : "Nothing was left out."),
    ...reasons.map((one) => make("article", { className: "reason" },
      make("h3", {}, one.reason, make("span", { className: "count" }, number(one.n))),
      make("p", {}, one.meaning),
      make("ul", { className: "examples" }, ...one.examples.map((id) =>
        make("li", {}, picture(id, EXAMPLE_PIXELS), make("span", { className: "name" }, id)))))));
}

function manifestsSection(manifests) {
  const cells = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, {}, value)));
  return make("section", {},
    make("h2", {}, "Where it came from"),
    make("div", { className: "scrolling", tabIndex: 0, role: "region", ariaLabel: "Manifests" }, make("table", {},
      make("thead", {}, cells("th", ["Artefact", "Id", "Counts", "Finished"])),
      make("tbody", {}, ...manifests.map((one) => cells("td", [
        one.kind,
        code(one.id),
        Object.entries(one.counts ?? {}).map(([name, n]) => `${number(n)} ${name}`).join(", "),
        time(one.created_utc),
      ]))))));
}

const number = (value) => value.toLocaleString("en-GB");
const code = (text) => make("code", {}, text);
const time = (utc) => make("time", { dateTime: utc }, utc.slice(0, 16).replace("T", " ") + " UTC");
