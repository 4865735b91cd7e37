/** The page: one view at a time, chosen by the part of the address behind #. */

import { read } from "./api.mjs";
import { button, isTyping, make, problemOf } from "./dom.mjs";
import { sendWhatIsLeft } from "./outbox.mjs";
import { openForChange, setUp, tokens } from "./token.mjs";

/** Views by their first word. Each has `show(main, { rest, parameters, signal })`; the signal says that it is left. */
const VIEWS = {
  search: () => import("./search.mjs"),
  rate: () => import("./rate.mjs"),
  map: () => import("./map.mjs"),
  release: () => import("./release.mjs"),
};

const main = document.getElementById("main");
let leaving = new AbortController();

async function showView() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  const [, path, query] = /^#\/([^?]*)\??(.*)$/.exec(location.hash || "#/search");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name} · voorwerp`;
  main.className = `view-${name in VIEWS ? name : "none"}`;
  try {
    if (!(name in VIEWS)) throw new Error("There is no such view.");
    const view = await VIEWS[name]();
    if (!signal.aborted) await view.show(main, { rest, parameters: new URLSearchParams(query), signal });
  } catch (error) {
    if (signal.aborted) return;
    const isAboutToken = [401, 403].includes(error.status);
    main.replaceChildren(
      make("h1", {}, isAboutToken ? "This needs another token" : "This did not work"),
      problemOf(error),
      isAboutToken ? button("Use another token", openForChange) : "",
    );
  }
}

async function offerMap() {
  const answer = await read("v1/map", { quiet: true }).catch(() => null);
  document.querySelector('#views a[href="#/map"]').hidden = answer === null;
}

history.scrollRestoration = "manual";
setUp();
addEventListener("hashchange", showView);
tokens.addEventListener("change", () => {
  showView();
  offerMap();
});
document.getElementById("skip").onclick = (event) => {
  event.preventDefault();
  main.focus();
};
addEventListener("keydown", (event) => {
  if (event.key !== "/" || isTyping(event)) return;
  event.preventDefault();
  const box = document.getElementById("query");
  if (box) box.select();
  else location.hash = "#/search";
});
showView();
offerMap();
sendWhatIsLeft();
