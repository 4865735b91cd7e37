/** View: release. What is served, what was left out of it, and where it came from. */

import { address, read } from "./api.mjs";
import { announce, button, facts, make } from "./dom.mjs";
import { save } from "./files.mjs";
import { pictures } from "./images.mjs";

const EXAMPLE_PIXELS = 96;

/** Show the view; parts that a service does not have are left out. */
export async function show(main, { signal }) {
  main.replaceChildren(make("p", { className: "waiting", role: "status" }, "Looking …"));
  const about = await read("v1/release", { signal });
  const [rejects, manifests] = await Promise.all(
    ["v1/release/rejects", "v1/release/manifests"].map((path) => read(path, { signal }).catch(nothing)));
  main.replaceChildren(make("h1", {}, "Release"), aboutSection(about));
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
