/** What sandboxes are made from. */

import { splitConnection, type Connection } from "./client.js";
import type { TemplateInfo } from "./models.js";

/** Templates: base images, and snapshots of sandboxes. */
export class Template {
  private constructor() {}

  /** Lists them by name. */
  static list(options: Connection = {}): Promise<TemplateInfo[]> {
    const { client, request } = splitConnection(options);
    return client.transport.json("list_templates", {}, request);
  }
}
