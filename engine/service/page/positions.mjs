/** Positions on the sky, as people write them and as they are shown. Degrees, ICRS. */

const DEGREES = /^(-?[\d.]+)°?[\s,]+([+-]?[\d.]+)°?$/;
const SEXAGESIMAL =
  /^(\d{1,2})[h:\s]\s*(\d{1,2})[m:\s]\s*([\d.]+)s?[\s,]+([+-]?)(\d{1,2})[d°:\s]\s*(\d{1,2})[m'′:\s]\s*([\d.]+)[s"″]?$/;

/**
 * Read a position: degrees, hours and degrees in parts of sixty, or a link to the Legacy Survey viewer.
 * @param {string} text
 * @returns {?{raDeg: number, decDeg: number}} null where the text is something else.
 * @throws {RangeError} where it is a position that is not on the sky.
 */
export function parsePosition(text) {
  const plain = text.trim().replace(/[−–]/g, "-");
  return fromLink(plain) ?? fromDegrees(plain) ?? fromSexagesimal(plain);
}

/** As `12:34:56.70 −01:02:03.0`. */
export function sexagesimal(raDeg, decDeg) {
  const sign = decDeg < 0 ? "−" : "+";
  return `${sixties(raDeg / 15, 2, 24)} ${sign}${sixties(Math.abs(decDeg), 1)}`;
}

/** As `188.73625 −1.03417`. */
export function degrees(raDeg, decDeg) {
  return `${raDeg.toFixed(5)} ${decDeg < 0 ? "−" : "+"}${Math.abs(decDeg).toFixed(5)}`;
}

/** As `3.2″`, `5.1′` or `1.2°`. */
export function angle(arcsec) {
  if (arcsec < 60) return `${arcsec.toFixed(1)}″`;
  return arcsec < 3600 ? `${(arcsec / 60).toFixed(1)}′` : `${(arcsec / 3600).toFixed(1)}°`;
}

/** Where others show a position: [name, URL] each. */
export function elsewhere(raDeg, decDeg) {
  const at = { ra: raDeg.toFixed(6), dec: decDeg.toFixed(6) };
  const place = encodeURIComponent(`${at.ra} ${at.dec}`);
  return [
    ["Legacy Survey", `https://www.legacysurvey.org/viewer?${new URLSearchParams(at)}&layer=ls-dr10&zoom=16&mark=${at.ra},${at.dec}`],
    ["SIMBAD", `https://simbad.cds.unistra.fr/simbad/sim-coo?Coord=${place}&CooFrame=ICRS&Radius=10&Radius.unit=arcsec`],
    ["ESASky", `https://sky.esa.int/esasky/?target=${place}&fov=0.03&cooframe=J2000`],
  ];
}

function fromLink(text) {
  if (!/^(https?:\/\/)?([\w-]+\.)*legacysurvey\.org\//.test(text)) return null;
  const { searchParams } = new URL(text.startsWith("http") ? text : `https://${text}`);
  const given = ["ra", "dec"].map((name) => searchParams.get(name));
  if (given.includes(null)) throw new RangeError("This link has no ra and dec.");
  return onSky(...given.map(Number));
}

function fromDegrees(text) {
  const found = DEGREES.exec(text);
  return found && onSky(Number(found[1]), Number(found[2]));
}

function fromSexagesimal(text) {
  const found = SEXAGESIMAL.exec(text);
  if (!found) return null;
  const [, hours, raMinutes, raSeconds, sign, decDegrees, decMinutes, decSeconds] = found;
  if ([raMinutes, raSeconds, decMinutes, decSeconds].some((part) => !(Number(part) < 60))) {
    throw new RangeError("Minutes and seconds are below 60.");
  }
  const dec = whole(decDegrees, decMinutes, decSeconds);
  return onSky(15 * whole(hours, raMinutes, raSeconds), sign === "-" ? -dec : dec);
}

const whole = (ones, minutes, seconds) => Number(ones) + Number(minutes) / 60 + Number(seconds) / 3600;

function onSky(raDeg, decDeg) {
  if (!(raDeg >= 0 && raDeg < 360)) throw new RangeError("A right ascension is at least 0 and below 360 degrees.");
  if (!(Math.abs(decDeg) <= 90)) throw new RangeError("A declination is between −90 and 90 degrees.");
  return { raDeg, decDeg };
}

function sixties(value, digits, turn = Infinity) {
  // Rounded first, so that no part is ever 60.
  const unit = 10 ** digits;
  const total = Math.round(value * 3600 * unit) % (turn * 3600 * unit);
  const parts = [Math.floor(total / (3600 * unit)), Math.floor(total / (60 * unit)) % 60];
  const seconds = ((total % (60 * unit)) / unit).toFixed(digits);
  return [...parts.map((part) => String(part).padStart(2, "0")), seconds.padStart(3 + digits, "0")].join(":");
}
