/** Values of scenarios: what they stand for, and what they match. */

export type Plain = null | boolean | number | string | Uint8Array | Plain[] | { [name: string]: Plain | undefined };
type PlainObject = { [name: string]: Plain | undefined };

const isObject = (value: unknown): value is PlainObject =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => index % 251);
}

/** Replaces `${name}` and what stands for bytes. */
export function resolve(value: Plain, values: ReadonlyMap<string, unknown>): Plain {
  if (typeof value === "string") {
    const whole = /^\$\{([\w.]+)\}$/.exec(value);
    if (whole) {
      return look(whole[1]!, values) as Plain;
    }
    return value.replace(/\$\{([\w.]+)\}/g, (_, path: string) => String(look(path, values)));
  }
  if (Array.isArray(value)) {
    return value.map((item) => resolve(item, values));
  }
  if (!isObject(value)) {
    return value;
  }
  if ("$bytes" in value) {
    return Uint8Array.from(Buffer.from(value["$bytes"] as string, "base64"));
  }
  if ("$pattern" in value) {
    return pattern(value["$pattern"] as number);
  }
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, resolve(field!, values)]));
}

/** Returns the value of `name.field`. Fields have their names of the API. */
export function look(path: string, values: ReadonlyMap<string, unknown>): unknown {
  const [name, ...fields] = path.split(".");
  if (!values.has(name!)) {
    throw new Error(`nothing is bound to ${name}`);
  }
  let value = values.get(name!);
  for (const field of fields) {
    const camel = field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    const object = value as Record<string, unknown>;
    value = object[camel] ?? object[field];
  }
  return value;
}

const VERBATIM = new Set(["labels", "envs", "data"]);

/** Converts a result to names of the API. */
export function toPlain(value: unknown): Plain {
  if (Array.isArray(value)) {
    return value.map(toPlain);
  }
  if (!isObject(value)) {
    return (value ?? null) as Plain;
  }
  const entries = Object.entries(value).map(([name, field]): [string, Plain] => {
    const wire = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    return [wire, VERBATIM.has(name) ? (field as Plain) : toPlain(field)];
  });
  return Object.fromEntries(entries);
}

const PATTERNS: Record<string, (wanted: Plain, got: Plain) => boolean> = {
  $contains: (wanted, got) =>
    Array.isArray(got)
      ? got.some((item) => matches(wanted, item))
      : typeof got === "string" && got.includes(wanted as string),
  $matches: (wanted, got) => typeof got === "string" && new RegExp(wanted as string).test(got),
  $size: (wanted, got) => (got as { length?: number } | null)?.length === wanted,
  $least: (wanted, got) => typeof got === "number" && got >= (wanted as number),
  $absent: (_wanted, got) => got === null || got === undefined,
  $any: (_wanted, got) => got !== null && got !== undefined,
};

/** Shows a value in a message, with bytes as their number. */
export function show(value: Plain): string {
  const text = JSON.stringify(value, (_name, field: unknown) =>
    field instanceof Uint8Array ? `${field.length} bytes` : field,
  );
  return (text ?? "nothing").slice(0, 2000);
}

/** Returns true if a value matches. */
export function matches(wanted: Plain, got: Plain): boolean {
  if (wanted instanceof Uint8Array) {
    return got instanceof Uint8Array && Buffer.compare(wanted, got) === 0;
  }
  if (Array.isArray(wanted)) {
    return Array.isArray(got) && got.length === wanted.length && wanted.every((item, at) => matches(item, got[at]!));
  }
  if (!isObject(wanted)) {
    return wanted === got;
  }
  return Object.entries(wanted).every(([name, field]) => {
    if (name.startsWith("$")) {
      const check = PATTERNS[name];
      if (!check) {
        throw new Error(`the runner does not know ${name}`);
      }
      return check(field!, got);
    }
    return isObject(got) && matches(field!, got[name] as Plain);
  });
}
