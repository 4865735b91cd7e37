/** What a rater is asked about: batches in a row, the next one fetched before the last one is done. */

import { post } from "./api.mjs";

/** Galaxies before the end at which the next batch is asked for, so that nobody waits for it. */
const EARLY = 3;

/** A place among the galaxies asked about, and what was answered in this sitting. */
export class Asked {
  ids = [];
  at = 0;
  /** Ratings of this sitting, by id. */
  ratings = new Map();
  #campaign;
  #batch;
  #outbox;
  #signal;
  #starts = [];
  #given = [];
  #fetching = null;

  /**
   * @param {string} campaign
   * @param {number} batch Galaxies asked about at once.
   * @param {Outbox} outbox
   * @param {AbortSignal} signal
   */
  constructor(campaign, batch, outbox, signal) {
    this.#campaign = campaign;
    this.#batch = batch;
    this.#outbox = outbox;
    this.#signal = signal;
  }

  get id() {
    return this.ids[this.at];
  }

  /** The place in its batch: [position from 1, size]. */
  get place() {
    const start = this.#starts.findLast((one) => one <= this.at);
    const end = this.#starts.find((one) => one > this.at) ?? this.ids.length;
    return [this.at - start + 1, end - start];
  }

  get isBatchStart() {
    return this.#starts.includes(this.at);
  }

  get canUndo() {
    return this.#given.length > 0;
  }

  /**
   * Make sure that there is a galaxy at the place, and soon one after it.
   * @throws {Problem} where there is nothing left to ask about.
   */
  async ready() {
    if (this.ids.length - this.at <= EARLY) this.#fetch();
    if (this.id !== undefined) return;
    await this.#fetching;
    if (this.id !== undefined) return;
    await this.#outbox.empty();
    await this.#fetch();
    if (this.id === undefined) await this.#startAgain();
  }

  rate(rating) {
    this.ratings.set(this.id, rating);
    this.#outbox.rate(this.id, rating);
    this.#given.push({ at: this.at, id: this.id });
    this.at += 1;
  }

  skip() {
    this.at += 1;
  }

  back() {
    this.at = Math.max(0, this.at - 1);
  }

  /** Take back the last rating of this sitting, and return to it. */
  undo() {
    const { at, id } = this.#given.pop();
    this.#outbox.undo();
    this.ratings.delete(id);
    this.at = at;
  }

  /** Ask for a batch beside what waits already; a failure shows when the place is reached. */
  #fetch() {
    this.#fetching ??= this.#more().finally(() => { this.#fetching = null; });
    this.#fetching.catch(() => {});
    return this.#fetching;
  }

  async #more() {
    const nWaiting = this.ids.filter((id) => !this.ratings.has(id)).length + this.#outbox.size;
    const { asked } = await this.#ask(nWaiting + this.#batch);
    const known = new Set(this.ids);
    const fresh = asked.map((one) => one.object_id).filter((id) => !known.has(id));
    if (fresh.length) this.#starts.push(this.ids.length);
    this.ids.push(...fresh);
  }

  /** All that waits was skipped: ask about it again. */
  async #startAgain() {
    const { asked } = await this.#ask(this.#batch);
    this.ids = asked.map((one) => one.object_id);
    this.#starts = [0];
    this.#given = [];
    this.at = 0;
  }

  #ask(n) {
    return post(`v1/campaigns/${this.#campaign}/next`, { n: Math.min(n, 1000) }, { signal: this.#signal });
  }
}
