// Writes src/generated/ from the API document: types of all schemas, and for each operation its method, path, and the
// types of its query, body and answer. With --check it writes nothing, and fails if the files are not current.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import { format, resolveConfig } from "prettier";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const document = JSON.parse(readFileSync(join(root, "../../api/openapi.json"), "utf8"));
const header = "// Generated from api/openapi.json by `npm run generate`. Do not edit.\n\n";

const METHODS = ["get", "put", "post", "delete", "patch", "head"];
const ALIAS = "#/components/schemas/";

/** Returns the TypeScript type of a schema of a parameter, which is simple. */
function typeOf(schema) {
  if (schema.$ref) return `Schemas[${JSON.stringify(schema.$ref.slice(ALIAS.length))}]`;
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `(${typeOf(schema.items)})[]`;
  const types = [schema.type].flat().filter((type) => type !== "null");
  return types.map((type) => (type === "integer" ? "number" : type)).join(" | ");
}

function fieldsOf(parameters) {
  if (parameters.length === 0) return "Record<never, never>";
  const field = ({ name, required, schema }) => `${JSON.stringify(name)}${required ? "" : "?"}: ${typeOf(schema)}`;
  return `{ ${parameters.map(field).join("; ")} }`;
}

/** Returns the type of JSON in a body or an answer; `never` where it is something else. */
function jsonOf(content) {
  const schema = content?.["application/json"]?.schema;
  if (!schema) return "never";
  return schema.type === "object" ? "Record<string, unknown>" : typeOf(schema);
}

function operationsOf(paths) {
  const types = [];
  const routes = [];
  for (const [path, item] of Object.entries(paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const { operationId, parameters = [], requestBody, responses } = item[method];
      const placed = (place) => [...(item.parameters ?? []), ...parameters].filter((p) => p.in === place);
      const answers = Object.entries(responses).filter(([status]) => status < 300);
      const answer = answers.map(([, response]) => jsonOf(response.content)).filter((type) => type !== "never");
      types.push(`${operationId}: {
        path: ${fieldsOf(placed("path"))};
        query: ${fieldsOf(placed("query"))};
        body: ${jsonOf(requestBody?.content)};
        answer: ${[...new Set(answer)].join(" | ") || "never"};
      };`);
      routes.push(`${operationId}: ["${method.toUpperCase()}", ${JSON.stringify(path)}],`);
    }
  }
  return `import type { components } from "./schemas.js";

    type Schemas = components["schemas"];

    /** Path, query, body and answer of each operation of the API. */
    export interface Operations { ${types.join("\n")} }

    /** Method and path of each operation of the API. */
    export const ROUTES: { readonly [name in keyof Operations]: readonly [method: string, path: string] } = {
      ${routes.join("\n")}
    };`;
}

const schemas = astToString(await openapiTS({ ...document, paths: {} }, { defaultNonNullable: false }));
const files = { "schemas.ts": schemas, "operations.ts": operationsOf(document.paths) };
let stale = 0;
for (const [name, text] of Object.entries(files)) {
  const path = join(root, "src/generated", name);
  const options = { ...(await resolveConfig(path)), filepath: path };
  const wanted = await format(header + text, options);
  if (!process.argv.includes("--check")) {
    writeFileSync(path, wanted);
  } else if (readFileSync(path, "utf8") !== wanted) {
    stale += 1;
    console.error(`src/generated/${name} is not current: npm run generate`);
  }
}
process.exitCode = stale ? 1 : 0;
