/** View: search. One box, the galaxy that was asked about, and those most like it. */

import { post, read } from "./api.mjs";
import { actions } from "./actions.mjs";
import { make, problemOf } from "./dom.mjs";
import { gallery } from "./gallery.mjs";
import { framed, pictures } from "./images.mjs";
import { objectPanel } from "./object.mjs";
import { askAbout, askAboutImage } from "./question.mjs";

const FIRST_K = 40;
const EXAMPLES = "188.7362 −1.0342, 12:34:56.7 −01:02:03, or a link of the Legacy Survey viewer";
const REMEMBERED_MS = 150;

/** The image that was dropped last: it is in no address, so that it lasts as long as the page. */
let dropped = null;

/** Show the view, for the text in `q`, for the dropped image, or for nothing yet. */
export async function show(main, { parameters, signal }) {
  const text = (parameters.get("q") ?? "").trim();
  const isImage = parameters.has("image") && dropped !== null;
  const results = make("section", { className: "results", ariaLabel: "Results" });
  main.replaceChildren(searchForm(text), results);
  takeDrops(main, signal);
  try {
    results.replaceChildren(make("p", { className: "waiting", role: "status" }, "Looking …"));
    if (isImage) await showAnswer(results, askAboutImage(dropped), dropped.name, signal);
    else if (text) await showAnswer(results, askAbout(text), text, signal);
    else await showTypical(results, signal);
  } catch (error) {
    if (signal.aborted) return;
    results.replaceChildren(make("h1", { className: "quiet-title" }, text || "Search"), problemOf(error));
  }
}

async function showAnswer(results, question, title, signal) {
  document.title = `${title} · voorwerp`;
  const before = history.state ?? {};
  const answer = await question.answer(before.k ?? FIRST_K, signal);
  const picture = pictures(signal);
  const panel = answer.query_id === null
    ? make("article", { className: "object" }, framed(dropped, dropped.name, signal), make("h1", { tabIndex: -1 }, dropped.name))
    : await objectPanel(answer, question, picture, signal);
  const found = gallery({ answer, more: question.answer, picture, signal });
  results.replaceChildren(panel, actions(question, answer, found), found.element);
  rememberPlace(found, signal);
  scrollTo(0, before.scrollPx ?? 0);
  if (document.activeElement === document.body) panel.querySelector("h1").focus({ preventScroll: true });
}

/** What to look at before anything is asked: the objects around the mean of all components. */
async function showTypical(results, signal) {
  const release = await read("v1/release", { signal });
  const vectors = [Array(release.dimension).fill(0)];
  const more = async (k) => (await post("v1/neighbours", { vectors, k }, { signal })).answers[0];
  const found = gallery({ answer: await more(FIRST_K), more, picture: pictures(signal), signal });
  const count = `${release.n_objects.toLocaleString("en-GB")} galaxies`;
  results.replaceChildren(
    make("div", { className: "introduction" },
      make("h1", {}, "Which galaxies look like this one?"),
      make("p", {}, `${count}. Ask about one above, drop an image of your own here, or begin with one of the most typical.`)),
    found.element,
  );
  scrollTo(0, history.state?.scrollPx ?? 0);
  rememberPlace(found, signal);
}

function searchForm(text) {
  const box = make("input", {
    id: "query", type: "search", value: text, autocomplete: "off", spellcheck: false, enterKeyHint: "search",
    "aria-describedby": "query-hint", placeholder: "Object id, position, link or name",
  });
  const file = make("input", { id: "query-image", type: "file", accept: "image/*,.fits,.fit", className: "unseen" });
  file.onchange = () => file.files.length && searchImage(file.files[0]);
  const form = make("form", { className: "search", role: "search" },
    make("label", { htmlFor: "query", className: "unseen" }, "Search for"),
    box,
    make("button", { className: "primary" }, "Search"),
    file,
    make("label", { htmlFor: "query-image", className: "button" }, "Image …"),
    make("p", { id: "query-hint", className: "hint" },
      `An id, or ${EXAMPLES}. `, make("kbd", {}, "/"), make("span", { className: "for-keys" }, " comes here.")));
  form.onsubmit = (event) => {
    event.preventDefault();
    const asked = box.value.trim();
    location.hash = asked ? `#/search?${new URLSearchParams({ q: asked })}` : "#/search";
  };
  return form;
}

function takeDrops(main, signal) {
  const over = (event) => {
    event.preventDefault();
    main.classList.toggle("dropping", event.type === "dragover");
  };
  for (const name of ["dragover", "dragleave", "drop"]) main.addEventListener(name, over, { signal });
  main.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) searchImage(file);
  }, { signal });
}

function searchImage(file) {
  dropped = file;
  const before = location.hash;
  location.hash = `#/search?${new URLSearchParams({ image: file.name })}`;
  if (location.hash === before) dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Keep in the browser's history how far one has looked, so that coming back ends there. */
function rememberPlace(found, signal) {
  let timer;
  addEventListener("scroll", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (!signal.aborted) history.replaceState({ k: Math.max(found.rows.length, FIRST_K), scrollPx: scrollY }, "");
    }, REMEMBERED_MS);
  }, { signal, passive: true });
}
