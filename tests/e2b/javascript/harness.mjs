// Runs each test against the `e2b` package of the directory E2B_TEST_PACKAGE.
//
// A test says which call it covers: `covers('files.write(gzip)', …)`. It is not run where the package lacks that method
// or option, and the matrix shows it as such. Outcomes go to the file that E2B_TEST_RESULTS names.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

const directory = process.env.E2B_TEST_PACKAGE
const require = createRequire(join(directory, 'package.json'))
export const e2b = require('e2b')
const packageDir = join(directory, 'node_modules/e2b')
export const version = JSON.parse(readFileSync(join(packageDir, 'package.json'), 'utf8')).version
const declarations = readFileSync(join(packageDir, 'dist/index.d.ts'), 'utf8')

export const sandboxUrl = process.env.E2B_SANDBOX_URL
export const runId = randomUUID().slice(0, 8)
// Longer than all tests take under load.
export const lifetimeMs = 3_600_000
const testTimeoutMs = 240_000

// Returns whether this version is at least another.
export function isSince(other) {
    const [ours, theirs] = [version, other].map((text) => text.split('.').map(Number))
    const at = ours.findIndex((part, index) => part !== (theirs[index] ?? 0))
    return at < 0 || ours[at] > (theirs[at] ?? 0)
}

// Groups of calls that are not run.
const leftOut = (process.env.E2B_TEST_WITHOUT ?? '').split(' ')
const created = []

const killSaysNothing = /^ +kill\(opts\?: .*Promise<void>/m.test(declarations)
// Returns what `sandbox.kill()` answers: nothing in older versions.
export const killAnswer = (wasThere) => (killSaysNothing ? undefined : wasThere)

// Creates a sandbox that goes with the test run.
export async function create(...parameters) {
    const options = typeof parameters.at(-1) === 'object' ? parameters.pop() : {}
    return remember(await e2b.Sandbox.create(...parameters, { timeoutMs: lifetimeMs, ...options }))
}

export function remember(sandbox) {
    created.push(sandbox.sandboxId)
    return sandbox
}

let shared
// Returns the sandbox that all tests share that leave it as it was.
export function sharedBox() {
    shared ??= create({ metadata: { purpose: 'shared', run: runId } }).catch((error) => {
        // The next test tries again.
        shared = undefined
        throw error
    })
    return shared
}

// Makes a directory of the shared sandbox that a test has to itself.
export async function newPlace(box) {
    const path = `/home/user/${randomUUID()}`
    await box.files.makeDir(path)
    return path
}

// Returns what a command writes, without the last end of line.
export async function output(sandbox, command, options) {
    return (await sandbox.commands.run(command, options)).stdout.replace(/\n$/, '')
}

// Calls `check` until it returns something true.
export async function until(check, what, seconds = 90) {
    const deadline = Date.now() + seconds * 1000
    for (;;) {
        const found = await check()
        if (found) return found
        assert.ok(Date.now() < deadline, `${what} did not happen in ${seconds} s`)
        await sleep(50)
    }
}

// Returns a command that waits for a file.
export const untilExists = (path) => `until [ -e ${path} ]; do sleep 0.05; done`

// Asks a port of a sandbox over the address that all of them share.
export function portRequest(sandbox, port, path = '/', headers = {}) {
    const routing = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) }
    return fetch(sandboxUrl + path, { headers: { ...routing, ...headers } })
}

// An instance that is never used, for its methods.
const specimen = new e2b.Sandbox({ sandboxId: 'specimen', envdVersion: '0.6.13', apiKey: `e2b_${'0'.repeat(40)}` })

// Returns whether the package has a method, or a method with an option: `files.write(gzip)`.
function has(label) {
    const [, owner, method, option] = label.match(/^([A-Za-z0-9]+)(?:\.([A-Za-z]+))?(?:\((\w+)\S*\))?/)
    if (owner === 'handle') return declaredIn('CommandHandle', method)
    if (owner === 'watch') return declaredIn('WatchHandle', method)
    const found = { commands: specimen.commands, files: specimen.files, git: specimen.git, pty: specimen.pty }[owner]
    if (owner === 'git' && !found) return false
    const has = found ?? e2b[owner]
    if (!has || !method) return Boolean(has)
    if (!(method in has) && !(has.prototype && method in has.prototype)) return false
    return !option || optionsOf(owner).some((block) => new RegExp(`\\b${option}\\??:`).test(block))
}

// Returns the declarations of options of a module, such as those of `interface FilesystemWriteOpts`.
function optionsOf(owner) {
    const names = { commands: 'Command', files: '(?:Filesystem|Watch)', pty: 'Pty' }[owner] ?? '(?:Create)?(?:Sandbox|Snapshot)'
    return declarations.match(new RegExp(`^(?:interface|type) ${names}\\w*[^]*?^\\}`, 'gm')) ?? []
}

function declaredIn(type, method) {
    const begin = declarations.search(new RegExp(`declare class ${type}[ <]`))
    const end = declarations.indexOf('\n}', begin)
    return new RegExp(`^ +${method}\\(`, 'm').test(declarations.slice(begin, end))
}

async function within(milliseconds, work) {
    const timer = new AbortController()
    const late = sleep(milliseconds, null, { signal: timer.signal }).then(() => {
        throw new Error(`the test takes longer than ${milliseconds} ms`)
    })
    try {
        return await Promise.race([work, late])
    } finally {
        timer.abort()
        late.catch(() => {})
    }
}

const calls = {}
let passed = 0
let failed = 0

// `refused` is the status that refuses a call which the server does not have.
export function covers(label, name, run, { needs = [], refused = true } = {}) {
    if (leftOut.includes(label.split('.')[0])) return
    if (![label, ...needs].every(has)) {
        calls[label] ??= { js: null }
        return
    }
    test(`${label}: ${name}`, async () => {
        calls[label] ??= { js: refused }
        try {
            await within(testTimeoutMs, sharedBox().then(run))
            passed += 1
        } catch (error) {
            failed += 1
            calls[label].js = false
            throw error
        }
    })
}

after(async () => {
    await Promise.all(created.map((id) => e2b.Sandbox.kill(id)))
})

process.on('exit', () => {
    if (process.env.E2B_TEST_RESULTS) {
        writeFileSync(process.env.E2B_TEST_RESULTS, JSON.stringify({ calls, passed, failed }))
    }
})
