/**
 * Ratings on their way: kept by this tab until the service has acknowledged them, in the order in which they were given.
 *
 * Each has an idempotency key, so that it is recorded once however often it is sent.
 */

import { post } from "./api.mjs";
import { tokens } from "./token.mjs";

const KEPT = "voorwerp-outbox:";
const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 15;
const boxes = new Map();

/** Tells of `change` in what waits or in `state`, and of `refused` ones. */
export class Outbox extends EventTarget {
  /** One of saved, saving, offline, locked; locked waits for another token. */
  state = "saved";
  #campaign;
  #waiting;
  #wake = () => {};

  constructor(campaign) {
    super();
    this.#campaign = campaign;
    this.#waiting = JSON.parse(sessionStorage.getItem(KEPT + campaign) ?? "[]");
    addEventListener("online", () => this.#wake());
    tokens.addEventListener("change", () => this.#wake());
    if (this.size) this.#send();
  }

  get size() {
    return this.#waiting.length;
  }

  /** Send a rating. */
  rate(objectId, rating) {
    this.#add("rate", { ratings: [{ object_id: objectId, rating }] });
  }

  /** Take back the last rating that holds. */
  undo() {
    this.#add("undo", {});
  }

  /** Resolves once nothing waits. */
  async empty() {
    while (this.size) await new Promise((resolve) => { this.addEventListener("change", resolve, { once: true }); });
  }

  #add(action, content) {
    this.#waiting.push({ action, content, key: crypto.randomUUID() });
    this.#keep();
    if (this.size === 1) this.#send();
    else this.#tell(this.state);
  }

  async #send() {
    let wait_s = FIRST_WAIT_S;
    this.#tell("saving");
    while (this.size) {
      const { action, content, key } = this.#waiting[0];
      try {
        await post(`v1/campaigns/${this.#campaign}/${action}`, content, { headers: { "Idempotency-Key": key } });
      } catch (problem) {
        if (problem.status === 0 || problem.status >= 500 || [401, 403, 429].includes(problem.status)) {
          this.#tell([401, 403].includes(problem.status) ? "locked" : "offline");
          await this.#sleep(wait_s);
          wait_s = Math.min(2 * wait_s, LONGEST_WAIT_S);
          continue;
        }
        this.dispatchEvent(new CustomEvent("refused", { detail: problem.message }));
      }
      wait_s = FIRST_WAIT_S;
      this.#waiting.shift();
      this.#keep();
      this.#tell(this.size ? "saving" : "saved");
    }
  }

  #sleep(seconds) {
    return new Promise((resolve) => {
      // Nothing is asked of a person again and again: a locked box waits for the token alone.
      const timer = this.state === "offline" ? setTimeout(resolve, 1000 * seconds) : null;
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #keep() {
    if (this.size) sessionStorage.setItem(KEPT + this.#campaign, JSON.stringify(this.#waiting));
    else sessionStorage.removeItem(KEPT + this.#campaign);
  }

  #tell(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}

/** The outbox of a campaign; there is one for each. */
export function outboxOf(campaign) {
  if (!boxes.has(campaign)) boxes.set(campaign, new Outbox(campaign));
  return boxes.get(campaign);
}

/** Go on sending what an earlier page of this tab has left. */
export function sendWhatIsLeft() {
  for (const name of Object.keys(sessionStorage)) if (name.startsWith(KEPT)) outboxOf(name.slice(KEPT.length));
}

addEventListener("beforeunload", (event) => {
  if ([...boxes.values()].some((box) => box.size)) event.preventDefault();
});
