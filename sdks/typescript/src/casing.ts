/**
 * Names in the style of the language: the API writes `timeout_sec`, objects of this package `timeoutSec`. Types and values
 * are converted by the same rule, so a field that the API gets needs no code here.
 */

/** Fields whose value is a map with keys of the user's, which stay as they are. */
const VERBATIM = new Set(["labels", "envs", "data"]);
type Verbatim = "labels" | "envs" | "data";

type CamelName<Name extends string> = Name extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelName<Tail>>}`
  : Name;

/** An object that is sent: names in camel case, `null` kept where it has a meaning. */
export type Sent<T> = T extends readonly (infer Item)[]
  ? Sent<Item>[]
  : T extends object
    ? { [Key in keyof T as CamelName<Key & string>]: Key extends Verbatim ? T[Key] : Sent<T[Key]> }
    : T;

/** An object that is received: names in camel case; what the API leaves out or says `null` to is absent. */
export type Received<T> = T extends readonly (infer Item)[]
  ? Received<Item>[]
  : T extends object
    ? { [Key in keyof T as CamelName<Key & string>]: Key extends Verbatim ? T[Key] : Received<Exclude<T[Key], null>> }
    : T;

type Json = unknown;

function mapNames(value: Json, rename: (name: string) => string, keepNull: boolean): Json {
  if (Array.isArray(value)) {
    return value.map((item) => mapNames(item, rename, keepNull));
  }
  if (value === null || typeof value !== "object") {
    return value;
  }
  const entries: [string, Json][] = [];
  for (const [name, field] of Object.entries(value)) {
    if (field === undefined || (field === null && !keepNull)) {
      continue;
    }
    entries.push([rename(name), VERBATIM.has(name) ? field : mapNames(field, rename, keepNull)]);
  }
  return Object.fromEntries(entries);
}

/** Converts an object of this package to JSON of the API. Fields that are `undefined` are left out. */
export function toWire(value: Json): Json {
  const rename = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return mapNames(value, rename, true);
}

/** Converts JSON of the API to an object of this package. */
export function fromWire<T>(value: T): Received<T> {
  const rename = (name: string) => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  return mapNames(value, rename, false) as Received<T>;
}
