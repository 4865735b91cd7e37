/** What can be done with neighbours: choose them, take them away as a file, send them to other tools. */

import { address, isOpenToEveryone } from "./api.mjs";
import { announce, button, make } from "./dom.mjs";
import { save } from "./files.mjs";
import { sendTable } from "./samp.mjs";

const FORMATS = [["votable", "VOTable", "vot"], ["csv", "CSV", "csv"], ["parquet", "Parquet", "parquet"]];

const NEEDS_OPEN = "Other tools fetch the table themselves, without your token: " +
  "this needs a service that everyone may read. Download it instead.";

/** Make the bar above a gallery. */
export function actions(question, answer, found) {
  const count = make("strong", {}), choice = make("span", { className: "choice" });
  const all = button("Select all", () => found.choose(true)), none = button("Clear", () => found.choose(false));
  const whole = (format) => address("v1/neighbours", {
    ...question.parameters,
    k: found.rows.length,
    rank: [...found.chosen].sort((a, b) => a - b),
    format,
  });
  const name = `neighbours-of-${(answer.query_id ?? "image").replace(/[^\w.-]+/g, "_")}`;
  const attempt = (work) => async ({ target }) => {
    target.disabled = true;
    await work().catch((error) => announce(error.message));
    target.disabled = false;
  };
  const files = FORMATS.map(([format, label, suffix]) =>
    button(label, attempt(() => save(whole(format), `${name}.${suffix}`)), { title: `Download as ${label}` }));
  const send = button("Send to TOPCAT, Aladin …", attempt(async () => {
    if (!await isOpenToEveryone()) {
      throw new Error(NEEDS_OPEN);
    }
    await sendTable(whole("votable").href, name);
    announce("Sent: every tool at the hub was told of the table.");
  }), { title: "By SAMP, to every tool that listens" });

  const update = () => {
    const n = found.chosen.size;
    count.textContent = `${found.rows.length} neighbours`;
    choice.textContent = n ? `${n} selected` : "Download all";
    none.hidden = !n;
  };
  found.events.addEventListener("change", update);
  update();
  return make("div", { className: "actions", role: "group", ariaLabel: "Neighbours" },
    count, exactness(answer), make("span", { className: "group" }, all, none),
    question.parameters ? make("span", { className: "group" }, choice, ...files, send) : null);
}

function exactness(answer) {
  if (answer.exactness === "exact") {
    return make("span", { className: "badge", title: "No object of the release is nearer than these, by proof" }, "exact");
  }
  const recall = answer.recall ? `, recall ${answer.recall.toFixed(3)}` : "";
  return make("span", { className: "badge approximate" }, `approximate${recall}`);
}
