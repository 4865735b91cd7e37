/** Requests to the service. The token travels in the Authorization header and nowhere else. */

import { otherToken, token } from "./token.mjs";

const SERVICE = new URL("../", import.meta.url);
const MOST_TRIES = 5;
const LONGEST_WAIT_S = 20;

/** An error of the service (RFC 9457); status 0 where it cannot be reached. */
export class Problem extends Error {
  constructor({ status = 0, reason = "unreachable", detail }) {
    super(detail);
    Object.assign(this, { status, reason });
  }

  /** Whether the service lacks the route, instead of what was asked of it. */
  get isNoRoute() {
    return ["no-such-route", "no-such-method"].includes(this.reason);
  }
}

/** Absolute URL of a path of the service, with the parameters that are not null. */
export function address(path, parameters = {}) {
  const url = new URL(path, SERVICE);
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value ?? []].flat()) url.searchParams.append(name, one);
  }
  return url;
}

/** Path of an object, whatever is in its id. */
export const objectPath = (id) => `v1/objects/${encodeURIComponent(id)}`;

/**
 * Ask; wait and ask again where the service says that it is busy, and ask the person where it wants a token.
 * @param {string|URL} path
 * @param {object} options As of fetch; and `quiet`: without asking the person.
 * @returns {Promise<Response>}
 * @throws {Problem}
 */
export async function ask(path, { quiet = false, ...options } = {}) {
  for (let tries = 1; ; tries += 1) {
    const used = token();
    const answer = await send(address(path), { ...options, headers: withToken(options.headers, used) });
    if (answer.ok) return answer;
    const problem = await problemIn(answer);
    if (answer.status === 401 && !quiet && await otherToken(used, problem.message)) continue;
    if (![429, 503].includes(answer.status) || tries === MOST_TRIES) throw problem;
    await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, LONGEST_WAIT_S), options.signal);
  }
}

/** Ask for JSON. */
export async function read(path, options = {}) {
  return (await ask(path, { ...options, headers: { Accept: "application/json", ...options.headers } })).json();
}

/** Send JSON, and read JSON. */
export function post(path, content, { headers, ...options } = {}) {
  const sent = { "Content-Type": "application/json", ...headers };
  return read(path, { method: "POST", body: JSON.stringify(content), headers: sent, ...options });
}

/** Whether the service answers without a token. */
export async function isOpenToEveryone() {
  return (await send(address("v1/release"), {})).ok;
}

/** Wait; rejects when the signal says that nobody does any more. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: "The service cannot be reached. Is it running, and are you online?" });
  }
}

async function problemIn(answer) {
  const told = await answer.json().catch(() => ({}));
  const { reason, detail = `The service answered ${answer.status}.` } = told;
  return new Problem({ status: answer.status, reason, detail });
}

function withToken(headers, used) {
  return used ? { ...headers, Authorization: `Bearer ${used}` } : { ...headers };
}
