/** Colours of values: viridis (van der Walt & Smith 2015), in which equal steps of a value look equal, also without hue. */

const VIRIDIS = [
  "440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725",
].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** The part of the scale that stands out from the sky of a theme. */
const PARTS = { dark: [0.14, 1], light: [0, 0.9] };
const MISSING = { dark: [96, 103, 117], light: [186, 182, 172] };

/** Number of colours, the first of which says that there is no value. */
export const N_COLOURS = 256;

/** Colours of a theme: 256 times red, green, blue and 255. */
export function colours(theme) {
  const table = new Uint8Array(4 * N_COLOURS), [low, high] = PARTS[theme];
  table.set([...MISSING[theme], 255]);
  for (let number = 1; number < N_COLOURS; number += 1) {
    const at = (low + (high - low) * (number - 1) / (N_COLOURS - 2)) * (VIRIDIS.length - 1);
    const from = VIRIDIS[Math.min(Math.floor(at), VIRIDIS.length - 2)], to = VIRIDIS[Math.min(Math.floor(at) + 1, VIRIDIS.length - 1)];
    const share = at - Math.min(Math.floor(at), VIRIDIS.length - 2);
    table.set([...from.map((value, band) => Math.round(value + (to[band] - value) * share)), 255], 4 * number);
  }
  return table;
}

/** One colour for all, of the page's own. */
export function single(theme) {
  const table = new Uint8Array(4 * N_COLOURS), colour = theme === "dark" ? [116, 214, 173, 255] : [13, 107, 76, 255];
  for (let number = 0; number < N_COLOURS; number += 1) table.set(colour, 4 * number);
  return table;
}

/** Numbers of the colours of values between low and high; 0 where there is none. */
export function coloured(values, low, high) {
  const numbers = new Uint8Array(values.length), scale = (N_COLOURS - 2) / ((high - low) || 1);
  for (let at = 0; at < values.length; at += 1) {
    const value = values[at];
    numbers[at] = Number.isNaN(value) ? 0 : 1 + Math.max(0, Math.min(N_COLOURS - 2, Math.round((value - low) * scale)));
  }
  return numbers;
}
