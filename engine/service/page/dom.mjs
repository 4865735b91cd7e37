/** Elements are made of properties and text, never of markup: whatever a catalogue says is shown as it is. */

/**
 * Make an element.
 * @param {string} tag
 * @param {object} properties By their DOM names; those that are no property become attributes.
 * @param {...(Node|string|null)} children Text stays text; null is left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Make a button that does something. */
export function button(label, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, label);
}

/** Make a list of names and values; values may be nodes. */
export function facts(pairs, properties = {}) {
  return make("dl", { className: "facts", ...properties }, ...pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value)))));
}

/** Say something to everyone, those who listen included, for a while. */
export function announce(text) {
  const place = document.getElementById("announcement");
  place.textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { place.textContent = ""; }, 6000);
}

/** Show why something is not there. */
export function problemOf(error, ...children) {
  return make("div", { className: "problem", role: "alert" }, make("p", {}, error.message), ...children);
}

/** Whether a key is being typed into something. */
export function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey ||
    event.target.matches("input:not([type=checkbox]), textarea, select") || document.querySelector("dialog[open]") !== null;
}
