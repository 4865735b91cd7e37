/** Questions: what somebody typed or dropped, as requests for neighbours. */

import { Problem, address, read } from "./api.mjs";
import { parsePosition } from "./positions.mjs";

/** How far from its object a position may be; farther away than `FAR_ARCSEC` it comes with a warning. */
const SEARCHED_ARCSEC = 3600;
export const FAR_ARCSEC = 20;

/**
 * Make a question of text: a position, an object id, or a name that the service may know.
 * @returns {{answer: function(number, AbortSignal): Promise<object>, parameters: ?object, named: ?string}}
 *   `parameters` are those of `GET v1/neighbours`, once there was an answer.
 */
export function askAbout(text) {
  const question = { parameters: null, named: null };
  question.answer = async (k, signal) => {
    if (question.parameters) return neighbours(question.parameters, k, signal);
    const position = parsePosition(text);
    question.parameters = position ? near(position) : { id: text };
    if (position) return neighbours(question.parameters, k, signal);
    try {
      return await neighbours(question.parameters, k, signal);
    } catch (error) {
      if (error.status !== 404 || error.isNoRoute) throw error;
      question.parameters = near(await resolve(text, signal));
      question.named = text;
      return neighbours(question.parameters, k, signal);
    }
  };
  return question;
}

/** Make a question of an image. */
export function askAboutImage(file) {
  const headers = { "Content-Type": file.type || "application/fits", Accept: "application/json" };
  const answer = async (k, signal) => {
    const url = address("v1/neighbours/image", { k });
    return only(await read(url, { method: "POST", body: file, headers, signal }));
  };
  return { answer, parameters: null, named: null };
}

/** The answer to the only query, with the recall of all of them. */
function only({ answers: [answer], recall = null }) {
  return { ...answer, recall };
}

function near({ raDeg, decDeg }) {
  return { ra: raDeg, dec: decDeg, match_radius_arcsec: SEARCHED_ARCSEC };
}

async function neighbours(parameters, k, signal) {
  try {
    return only(await read(address("v1/neighbours", { ...parameters, k }), { signal }));
  } catch (error) {
    if (error.status !== 404 || error.isNoRoute || "id" in parameters) throw error;
    throw new Problem({ ...error, detail: "This release has no galaxy within a degree of this position." });
  }
}

async function resolve(name, signal) {
  try {
    const found = await read(address("v1/resolve", { name }), { signal });
    return { raDeg: found.ra_deg, decDeg: found.dec_deg };
  } catch (error) {
    if (error.status !== 404) throw error;
    const asksNobody = error.isNoRoute || error.reason === "no-resolver";
    const more = asksNobody ? "and this service looks up no names" : "and no position is known for this name";
    throw new Problem({ ...error, detail: `No object of this release has the id “${name}”, ${more}.` });
  }
}
