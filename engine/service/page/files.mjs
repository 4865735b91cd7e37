/** Answers as files: fetched with the token, then handed to the browser. */

import { ask } from "./api.mjs";
import { make } from "./dom.mjs";

const KEPT_MS = 60_000;

/** Save what a URL of the service answers. */
export async function save(url, name) {
  const href = URL.createObjectURL(await (await ask(url)).blob());
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), KEPT_MS);
}
