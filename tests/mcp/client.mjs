// Uses the tools as clients of the TypeScript SDK do: client.mjs WRENN, with WRENN_API_URL and WRENN_API_KEY. Both ways
// in, with the protocol that most clients speak today, and the inspector's command line.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const wrenn = process.argv[2];
const { WRENN_API_URL: url, WRENN_API_KEY: key, PATH: path } = process.env;
const env = { WRENN_API_URL: url, WRENN_API_KEY: key, PATH: path };
const headers = { authorization: `Bearer ${key}` };

const text = (result) => result.content.map((part) => part.text ?? '').join('\n');

async function call(client, name, args = {}) {
    const result = await client.callTool({ name, arguments: args });
    assert(!result.isError, `${name}: ${text(result)}`);
    return result;
}

async function isGone(sandbox) {
    const answer = await fetch(`${url}/v1/sandboxes/${sandbox}`, { headers: { 'x-api-key': key } });
    return answer.status === 404 || (await answer.json()).status === 'stopped';
}

async function useTools(transport) {
    const client = new Client({ name: 'test', version: '1' });
    await client.connect(transport);
    assert.equal(client.getServerVersion().name, 'wrenn');
    assert((await client.listTools()).tools.some((tool) => tool.name === 'run_command'));
    const sandbox = (await call(client, 'create_sandbox')).structuredContent.id;
    const ran = await call(client, 'run_command', { command: 'uname -s; exit 7' });
    assert.deepEqual([ran.structuredContent.exit_code, ran.structuredContent.stdout], [7, 'Linux\n']);
    const reports = [];
    await client.callTool({ name: 'run_command', arguments: { command: 'for i in 1 2 3; do echo $i; sleep 1; done' } },
        undefined, { onprogress: (report) => reports.push(report) });
    assert(reports.length > 0);
    const templates = (await client.listResourceTemplates()).resourceTemplates;
    assert.deepEqual(templates.map((template) => template.name), ['file', 'log']);
    await transport.terminateSession?.();
    await client.close();
    for (let i = 0; !(await isGone(sandbox)); i++) {
        assert(i < 150, `${sandbox} is still there`);
        await new Promise((resolve) => setTimeout(resolve, 200));
    }
}

test('stdio', () => useTools(new StdioClientTransport({ command: wrenn, args: ['mcp'], env })));

test('http', () => useTools(new StreamableHTTPClientTransport(new URL(`${url}/mcp`), { requestInit: { headers } })));

test('inspector', async () => {
    const run = promisify(execFile);
    const variables = ['WRENN_API_URL', 'WRENN_API_KEY'].flatMap((name) => ['-e', `${name}=${env[name]}`]);
    const inspector = ['mcp-inspector', '--cli', ...variables, wrenn, 'mcp'];
    const listed = await run('npx', [...inspector, '--method', 'tools/list']);
    const { tools } = JSON.parse(listed.stdout);
    assert(tools.some((tool) => tool.name === 'edit_file'), listed.stdout);
    const called = await run('npx', [...inspector, '--method', 'tools/call', '--tool-name', 'list_templates']);
    assert(called.stdout.includes('minimal'), called.stdout);
});
