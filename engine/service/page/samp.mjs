/** Tables to other tools on this computer, by the Web Profile of SAMP 1.3 (IVOA). */

const HUBS = ["http://localhost:21012/", "http://127.0.0.1:21012/"];
const NO_HUB = "No SAMP hub was found on this computer: start TOPCAT or Aladin, then send again.";

/**
 * Tell every tool at the hub of a table.
 * @param {string} url Of a VOTable that needs no token.
 * @param {string} name Shown by the tools.
 * @throws {Error} where there is no hub, or the person at it says no.
 */
export async function sendTable(url, name) {
  const hub = await findHub();
  const { "samp.private-key": key } = await call(hub, "samp.webhub.register", [{ "samp.name": "voorwerp" }]);
  try {
    const message = { "samp.mtype": "table.load.votable", "samp.params": { url, name, "table-id": url } };
    await call(hub, "samp.webhub.notifyAll", [key, message]);
  } finally {
    await call(hub, "samp.webhub.unregister", [key]);
  }
}

async function findHub() {
  for (const hub of HUBS) {
    if (await call(hub, "samp.webhub.ping", []).then(() => true, () => false)) return hub;
  }
  throw new Error(NO_HUB);
}

/** Call a method (XML-RPC); values are texts and maps of texts, which is all that is needed here. */
async function call(hub, method, values) {
  const sent = document.implementation.createDocument(null, "methodCall");
  const add = (parent, tag, text = "") => {
    const element = parent.appendChild(sent.createElement(tag));
    element.textContent = text;
    return element;
  };
  const addValue = (parent, value) => {
    const place = add(parent, "value");
    if (typeof value === "string") return add(place, "string", value);
    const struct = add(place, "struct");
    for (const [name, one] of Object.entries(value)) {
      const member = add(struct, "member");
      add(member, "name", name);
      addValue(member, one);
    }
    return struct;
  };
  add(sent.documentElement, "methodName", method);
  const parameters = add(sent.documentElement, "params");
  for (const value of values) addValue(add(parameters, "param"), value);
  const body = new XMLSerializer().serializeToString(sent);
  const answer = await fetch(hub, { method: "POST", headers: { "Content-Type": "text/xml" }, body });
  return answerIn(new DOMParser().parseFromString(await answer.text(), "text/xml"));
}

function answerIn(document) {
  const members = [...document.querySelectorAll("struct > member")].map((member) =>
    [member.querySelector("name").textContent, member.querySelector("value").textContent]);
  const found = Object.fromEntries(members);
  if (document.querySelector("fault")) throw new Error(`The SAMP hub answered: ${found.faultString}`);
  return found;
}
