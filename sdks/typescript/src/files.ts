/**
 * Files of a sandbox. A path is absolute, or starts at the working directory of the image's configuration, without one at
 * the user's home.
 */

import { writeLocalFile } from "#platform";
import { rawBody, uploadForm } from "./body.js";
import { iterate, type Data } from "./bytes.js";
import type { RequestOptions } from "./deadline.js";
import { ConflictError, NotFoundError } from "./errors.js";
import type { EntryInfo, Schemas } from "./models.js";
import type { Sent } from "./casing.js";
import { failureOf, type OpenAnswer, type Transport } from "./transport.js";
import { uploadFile, type UploadSource } from "./uploads.js";
import { DirectoryWatch, FileSearch } from "./watch.js";

export interface FileOptions extends RequestOptions {
  /** User in the guest. Default: that of the template. */
  user?: string;
}

export interface WriteOptions extends FileOptions {
  /** Permission bits, as in `0o755` or `"0755"`. Default `0o644`. */
  mode?: number | string;
}

/** A file to write. */
export interface WriteEntry extends WriteOptions {
  path: string;
  data: Data;
}

export interface ListOptions extends FileOptions {
  /** Levels below the directory. Default 1, at most 32. */
  depth?: number;
}

export interface SearchOptions extends RequestOptions, Omit<Sent<Schemas["SearchFilesRequest"]>, "path"> {}

export interface ArchiveOptions extends FileOptions {
  /** True if the path is a file, which is the only entry of the archive, without its holes. */
  singleFile?: boolean;
}

/** Entries of a page of a list. */
const PAGE = 1000;

/** Files of one sandbox: `sandbox.files`. */
export class Files {
  /** @internal */
  constructor(
    private readonly transport: Transport,
    private readonly sandboxId: string,
  ) {}

  private get path(): { id: string } {
    return { id: this.sandboxId };
  }

  /** Reads a file as text. */
  read(path: string, options?: FileOptions & { format?: "text" }): Promise<string>;
  /** Reads a file as bytes. */
  read(path: string, options: FileOptions & { format: "bytes" }): Promise<Uint8Array>;
  /** Reads a file as it comes, for files of any size. */
  read(path: string, options: FileOptions & { format: "stream" }): Promise<ReadableStream<Uint8Array>>;
  async read(
    path: string,
    options: FileOptions & { format?: "text" | "bytes" | "stream" } = {},
  ): Promise<string | Uint8Array | ReadableStream<Uint8Array>> {
    const { format = "text", user, ...rest } = options;
    const input = { path: this.path, body: { path, user }, isData: true };
    if (format === "stream") {
      return bodyOf(await this.transport.open("stream_read_file", input, rest));
    }
    const data = await this.transport.bytes("stream_read_file", input, rest, (data) => data);
    return format === "bytes" ? data : new TextDecoder("utf-8", { ignoreBOM: true }).decode(data);
  }

  /**
   * Writes a file, and makes its parents. A stream is sent as it comes, and only once. After a break nothing is sent
   * again: see `upload`.
   */
  async write(path: string, data: Data, options: WriteOptions = {}): Promise<void> {
    const { user, mode, ...rest } = options;
    const raw = uploadForm({ path, user, mode: octal(mode) }, data);
    await this.transport.json("stream_write_file", { path: this.path, raw, isData: true }, rest);
  }

  /** Writes several files, one after the other. */
  async writeFiles(entries: Iterable<WriteEntry>, options: WriteOptions = {}): Promise<void> {
    for (const { path, data, ...own } of entries) {
      await this.write(path, data, { ...options, ...own });
    }
  }

  /** Lists a directory, by the bytes of the names. For directories of any length see `scan`. */
  async list(path: string, options: ListOptions = {}): Promise<EntryInfo[]> {
    const entries: EntryInfo[] = [];
    for await (const entry of this.scan(path, options)) {
      entries.push(entry);
    }
    return entries;
  }

  /** Lists a directory page by page. What is there during the whole listing is listed exactly once. */
  async *scan(path: string, options: ListOptions = {}): AsyncGenerator<EntryInfo, void, void> {
    const { depth, user, ...rest } = options;
    let cursor: string | undefined;
    do {
      const body = { path, depth, user, limit: PAGE, cursor };
      const page = await this.transport.jsonPage("list_files", { path: this.path, body }, rest);
      yield* page.value;
      cursor = page.headers.get("x-next-cursor") ?? undefined;
    } while (cursor);
  }

  /** Returns true if something is there. A sandbox that is gone is an error. */
  async exists(path: string, options: FileOptions = {}): Promise<boolean> {
    try {
      await this.getInfo(path, options);
      return true;
    } catch (error) {
      if (!(error instanceof NotFoundError)) {
        throw error;
      }
      // So that a sandbox that is gone is not taken for a file that is.
      const { signal, requestTimeoutMs } = options;
      await this.transport.json("get_sandbox", { path: this.path }, { signal, requestTimeoutMs });
      return false;
    }
  }

  /** Gets what is there. */
  getInfo(path: string, options: FileOptions = {}): Promise<EntryInfo> {
    const { user, ...rest } = options;
    return this.transport.json("stat_file", { path: this.path, body: { path, user } }, rest);
  }

  /** Makes a directory and its parents; false if it is there. */
  async makeDir(path: string, options: FileOptions = {}): Promise<boolean> {
    const { user, ...rest } = options;
    try {
      await this.transport.json("make_directory", { path: this.path, body: { path, user } }, rest);
      return true;
    } catch (error) {
      if (error instanceof ConflictError && (await this.getInfo(path, options)).kind === "directory") {
        return false;
      }
      throw error;
    }
  }

  /** Moves or renames a file or directory, within a file system of the sandbox. */
  rename(from: string, to: string, options: FileOptions & { overwrite?: boolean } = {}): Promise<EntryInfo> {
    const { user, overwrite, ...rest } = options;
    const body = { source: from, destination: to, overwrite, user };
    return this.transport.json("move_file", { path: this.path, body }, rest);
  }

  /** Removes a file, or a directory with everything in it. */
  async remove(path: string, options: FileOptions = {}): Promise<void> {
    const { user, ...rest } = options;
    await this.transport.json("remove_file", { path: this.path, body: { path, user } }, rest);
  }

  /** Changes permission bits, as chmod(1): octal, or symbolic as in `u+x`. */
  chmod(path: string, mode: string | number, options: FileOptions & { recursive?: boolean } = {}): Promise<EntryInfo> {
    const { user, recursive, ...rest } = options;
    const body = { path, mode: octal(mode), recursive, user };
    return this.transport.json("change_mode", { path: this.path, body }, rest);
  }

  /** Changes owner and group, by name or number. Only root may give files away. */
  chown(
    path: string,
    options: FileOptions & { owner?: string; group?: string; recursive?: boolean },
  ): Promise<EntryInfo> {
    const { user, owner, group, recursive, signal, requestTimeoutMs } = options;
    const body = { path, owner, group, recursive, user };
    return this.transport.json("change_owner", { path: this.path, body }, { signal, requestTimeoutMs });
  }

  /** Searches for files by name, by content, or both. Matches come as they are found. */
  async search(path: string, options: SearchOptions): Promise<FileSearch> {
    const { signal, requestTimeoutMs, ...query } = options;
    const input = { path: this.path, body: { path, ...query } };
    return new FileSearch(await this.transport.open("search_files", input, { signal, requestTimeoutMs }));
  }

  /** Watches a directory: every change after this call has returned is reported. */
  watchDir(path: string, options: FileOptions & { recursive?: boolean } = {}): Promise<DirectoryWatch> {
    const { user, recursive, ...rest } = options;
    return DirectoryWatch.start(this.transport, this.sandboxId, { path, recursive, user }, rest);
  }

  /** Uploads a local file, a blob or bytes, and goes on after a break. The path keeps its old content until the end. */
  async upload(source: UploadSource, path: string, options: WriteOptions & { sha256?: string } = {}): Promise<void> {
    const { user, mode, sha256, ...rest } = options;
    await uploadFile(this.transport, this.sandboxId, source, { path, user, mode: octal(mode), sha256 }, rest);
  }

  /** Downloads a file to a local one, which has its old content until all is there. */
  async download(path: string, local: string, options: FileOptions = {}): Promise<void> {
    await writeLocalFile(local, iterate(await this.read(path, { ...options, format: "stream" })));
  }

  /** Reads a directory as a tar archive, whose names are relative to it. */
  async readArchive(path: string, options: ArchiveOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const { user, singleFile, ...rest } = options;
    const input = { path: this.path, query: { path, user, singleFile }, isData: true };
    return bodyOf(await this.transport.open("read_archive", input, rest));
  }

  /** Unpacks a tar archive below a directory, which is made where it is missing. */
  async writeArchive(path: string, data: Data, options: ArchiveOptions = {}): Promise<void> {
    const { user, singleFile, ...rest } = options;
    const raw = rawBody(data, "application/x-tar");
    const input = { path: this.path, query: { path, user, singleFile }, raw, isData: true };
    await this.transport.json("write_archive", input, rest);
  }
}

function octal(mode: number | string | undefined): string | undefined {
  return typeof mode !== "number" ? mode : (mode & 0o7777).toString(8).padStart(4, "0");
}

/** Returns the body of an answer, with errors of this package. */
function bodyOf(answer: OpenAnswer): ReadableStream<Uint8Array> {
  const { response, release } = answer;
  const reader = response.body!.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) {
            release();
            controller.close();
          } else {
            controller.enqueue(value);
          }
        } catch (error) {
          release();
          throw failureOf(error, answer);
        }
      },
      async cancel(reason) {
        release();
        await reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
