/** Campaigns: those that there are, and a new one. */

import { post, read } from "./api.mjs";
import { facts, make, problemOf } from "./dom.mjs";

const ACQUISITIONS = {
  "expected-improvement": "what may be better than the best",
  "upper-confidence-bound": "what may be good",
  thompson: "by chance, as it may be good",
  mean: "what is liked already",
};
const SPACES = { anomaly: "for anomalies: 40, all alike", search: "for neighbours: 10, the first ones widest" };

const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,127}", NAME_MEANING = "Letters, digits, dots, dashes and underscores";
const LEAD = "Rate galaxies from 0, dull, to 5, fascinating. After each batch the campaign asks about what it would " +
  "learn most from, and ranks the whole release by what you like.";

let waiting = [];

/** Begin a campaign with known examples: its form opens with their ids in it. */
export function beginWith(ids) {
  waiting = ids;
  location.hash = "#/rate";
}

/** Show the list of campaigns. */
export async function showCampaigns(main, signal) {
  main.replaceChildren(make("p", { className: "waiting", role: "status" }, "Looking …"));
  const { campaigns } = await read("v1/campaigns", { signal });
  main.replaceChildren(
    make("h1", {}, "Rate"),
    make("p", { className: "lead" }, LEAD),
    campaigns.length
      ? make("ul", { className: "cards" }, ...campaigns.map(card))
      : make("p", { className: "empty" }, "There is no campaign on this release yet."),
    newCampaign(),
  );
}

function card({ name, config, created_utc: created }) {
  return make("li", {}, make("a", { href: `#/rate/${encodeURIComponent(name)}` },
    make("h2", {}, name),
    facts([
      ["Asks", ACQUISITIONS[config.acquisition]],
      ["At once", config.batch],
      ["Raters of a galaxy", config.raters_per_object],
      ["Since", created.slice(0, 10)],
    ])));
}

function newCampaign() {
  const problem = make("div", {});
  const field = (label, input) => make("label", {}, label, input);
  const name = make("input", { required: true, pattern: NAME, title: NAME_MEANING, autocomplete: "off" });
  const batch = make("input", { type: "number", min: 1, max: 1000, value: 10 });
  const choice = (options) => make("select", {},
    ...Object.entries(options).map(([value, label]) => make("option", { value }, label)));
  const acquisition = choice(ACQUISITIONS), space = choice(SPACES);
  const pooled = make("input", { type: "checkbox" });
  const examples = make("textarea", { rows: 2, placeholder: "Ids, one a line: more like these", value: waiting.join("\n") });
  const begun = waiting.length > 0;
  waiting = [];
  const form = make("form", { className: "stacked" },
    field("Name", name), field("Galaxies at once", batch), field("Asks about", acquisition), field("Components", space),
    field("Known examples", examples),
    make("label", { className: "check" }, pooled, "Begin with what other raters like"),
    problem, make("p", { className: "row" }, make("button", { className: "primary" }, "Create")));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const ids = examples.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const config = {
      batch: batch.valueAsNumber,
      acquisition: acquisition.value,
      space: space.value,
      pooled: pooled.checked,
      examples: ids,
    };
    try {
      await post("v1/campaigns", { name: name.value, config });
      location.hash = `#/rate/${encodeURIComponent(name.value)}`;
    } catch (error) {
      problem.replaceChildren(problemOf(error));
    }
  };
  return make("details", { className: "new", open: begun }, make("summary", {}, "New campaign (needs a token of scope admin)"), form);
}
