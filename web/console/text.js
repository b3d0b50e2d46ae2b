// Text for people: of hostile strings, times and sizes.

// Control, format (bidirectional and the like), separator and surrogate characters.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Shows characters that cannot be seen, or that reorder others, as escapes.
 * @param {unknown} text
 * @param {string} [kept] characters that stay
 * @returns {string}
 */
export function printable(text, kept = '') {
  return String(text).replace(UNSEEN, (character) => {
    if (kept.includes(character)) return character;
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
}

/**
 * @param {number} seconds
 * @returns {string} as `3 h 20 min`, with two units at most
 */
export function formatDuration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  /** @type {[number, string][]} */
  const units = [
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min'],
    [1, 's'],
  ];
  const first = units.findIndex(([size]) => whole >= size);
  if (first < 0) return '0 s';
  const [size, name] = units[first];
  const text = `${Math.floor(whole / size)} ${name}`;
  const rest = units[first + 1];
  // Seconds beside minutes only while they are few: what changes every second disturbs.
  if (!rest || (rest[1] === 's' && whole >= 600)) return text;
  const count = Math.floor((whole % size) / rest[0]);
  return count ? `${text} ${count} ${rest[1]}` : text;
}

/**
 * @param {number} bytes
 * @returns {string}
 */
export function formatBytes(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/**
 * @param {number} mb MiB
 * @returns {string}
 */
export function formatMemory(mb) {
  return mb >= 1024 && mb % 1024 === 0 ? `${mb / 1024} GiB` : `${mb} MiB`;
}

/**
 * @param {Date} time
 * @returns {string} as `14:03:59`
 */
export function formatTime(time) {
  return [time.getHours(), time.getMinutes(), time.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':');
}
