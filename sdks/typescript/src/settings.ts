/** Server and key: from options, else the environment, else `$WRENN_DIR/credentials`, as the command line finds them. */

import { environment, readCredentialsFile } from "#platform";
import { CredentialsError } from "./errors.js";

/** URL at which `wrenn up` serves by default. */
export const DEFAULT_URL = "http://127.0.0.1:8000";

export interface Settings {
  apiUrl: string;
  apiKey: string;
}

/** Content of a credentials file. */
export interface Credentials {
  url?: string;
  key?: string;
}

/**
 * Loads server and key. The key of the file is for this machine only: it is not sent to another address than the one that
 * stands beside it.
 */
export async function loadSettings(given: Partial<Settings>): Promise<Settings> {
  const url = given.apiUrl || environment("WRENN_API_URL");
  const key = given.apiKey || environment("WRENN_API_KEY");
  if (url && key) {
    return checked(url, key);
  }
  const file = await readCredentialsFile().catch((error: unknown) => {
    // With a key of its own, a file that cannot be read is no reason to fail.
    if (!key) {
      throw error;
    }
    return { path: "", text: undefined };
  });
  const found = file.text === undefined ? {} : parseCredentials(file.text, file.path);
  const homeUrl = found.url ?? DEFAULT_URL;
  if (key) {
    return checked(homeUrl, key);
  }
  if (!found.key) {
    throw new CredentialsError(
      `no API key: start a server here with \`wrenn up\`, which writes one to ${file.path}; or set WRENN_API_KEY, or ` +
        "pass apiKey",
    );
  }
  const isHome = url?.replace(/\/+$/, "") === homeUrl.replace(/\/+$/, "");
  if (url && !isHome && !isLoopback(url)) {
    throw new CredentialsError(
      `no API key for ${url}: the one in ${file.path} is for this machine only and is not sent elsewhere; set ` +
        "WRENN_API_KEY or pass apiKey",
    );
  }
  return checked(url ?? homeUrl, found.key);
}

function checked(url: string, key: string): Settings {
  let parsed: URL | undefined;
  try {
    parsed = new URL(url);
  } catch {
    // Told below, with what would be right.
  }
  if (parsed?.username || parsed?.password) {
    // Not shown: errors are logged.
    throw new CredentialsError(
      "the address of the server has a user or a password in it; the API key is the way to sign in, with apiKey or " +
        "WRENN_API_KEY",
    );
  }
  if (parsed?.protocol !== "http:" && parsed?.protocol !== "https:") {
    throw new CredentialsError(`${url} is not the address of a Wrenn server; it looks like ${DEFAULT_URL}`);
  }
  if (!/^[\x21-\x7e]+$/.test(key.trim())) {
    throw new CredentialsError(
      "the API key has characters that no key has; it looks like wrn_ and 40 lower-case hex digits",
    );
  }
  return { apiUrl: url.replace(/\/+$/, ""), apiKey: key.trim() };
}

function isLoopback(url: string): boolean {
  try {
    const { hostname, username, password } = new URL(url);
    const isLocal = hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
    return isLocal && !username && !password;
  } catch {
    return false;
  }
}

/** Parses `NAME=VALUE` lines as a shell reads them: `#` comments, `export`, one pair of quotes. */
export function parseCredentials(text: string, path: string): Credentials {
  const found: Credentials = {};
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.trim().replace(/^export /, "");
    if (line === "" || line.startsWith("#")) {
      continue;
    }
    const at = line.indexOf("=");
    if (at < 0) {
      throw new CredentialsError(
        `${path}, line ${index + 1}: not of the form NAME=VALUE; correct it, or remove the file and start \`wrenn up\` again`,
      );
    }
    const value = line
      .slice(at + 1)
      .trim()
      .replace(/^(["'])(.*)\1$/, "$2");
    const name = line.slice(0, at).trim();
    if (name === "WRENN_API_URL" && value) {
      found.url = value;
    } else if (name === "WRENN_API_KEY" && value) {
      found.key = value;
    }
  }
  return found;
}
