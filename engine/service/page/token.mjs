/** The token: kept by this tab, asked for when the service wants one. */

const KEPT = "voorwerp-token";
const element = (name) => document.getElementById(`token-${name}`);
let asking = null;

/** Tells of `change` when the token is another one. */
export const tokens = new EventTarget();

/** The token, or null. */
export const token = () => sessionStorage.getItem(KEPT);

/**
 * Wait until there is another token than one that was refused.
 * @param {?string} refused
 * @param {string} why Shown to the person.
 * @returns {Promise<boolean>} Whether there is.
 */
export async function otherToken(refused, why) {
  if (token() !== refused) return true;
  asking ??= openDialog(refused ? why : "").finally(() => { asking = null; });
  return asking;
}

/** Let the person see, change or forget the token. */
export function setUp() {
  element("button").onclick = openForChange;
  showName();
}

/** Let the person change the token now. */
export const openForChange = () => openDialog("");

function openDialog(why) {
  const dialog = element("dialog"), input = element("input"), problem = element("problem");
  problem.textContent = why;
  problem.hidden = !why;
  element("forget").hidden = !token();
  input.value = "";
  if (!dialog.open) dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    const leave = (changed) => {
      dialog.close();
      resolve(changed);
    };
    element("form").onsubmit = (event) => {
      event.preventDefault();
      keep(input.value.trim());
      leave(true);
    };
    element("forget").onclick = () => {
      keep(null);
      leave(false);
    };
    element("cancel").onclick = () => leave(false);
    dialog.oncancel = () => resolve(false);
  });
}

function keep(value) {
  if (value) sessionStorage.setItem(KEPT, value);
  else sessionStorage.removeItem(KEPT);
  showName();
  tokens.dispatchEvent(new Event("change"));
}

function showName() {
  // A token is its name, a dot, and what is secret.
  const name = token()?.split(".").slice(0, -1).join(".");
  element("button").textContent = name ? `Token: ${name}` : "Token";
}
