// What cells find beside what Node has: `require` and `import` from the working directory, `display` and `$$` for rich
// results.
'use strict'

const fs = require('node:fs')
const Module = require('node:module')
const path = require('node:path')
const util = require('node:util')

const MAX_JSON = 1 << 20

// Writes the result of a MIME bundle as a line.
let writeResult = () => {}
let receive = () => {}

function install(write) {
    writeResult = (bundle, main) => { write(bundle, main) }
    // Else what does not fit into the pipe is written after the end of the cell.
    for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true)
    process.on('uncaughtException', (error) => console.error(util.inspect(error)))
    process.on('unhandledRejection', (error) => console.error(util.inspect(error)))
    const hidden = (name, value) =>
        Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false })
    hidden('module', { exports: {}, filename: '[cell]', children: [], paths: [] })
    hidden('exports', globalThis.module.exports)
    hidden('require', makeRequire())
    hidden('display', (value) => writeResult(bundleOf(value), false))
    hidden('$$', makeDisplays())
    hidden('__import__', importFromCwd)
    hidden('__receive__', (...values) => receive(...values))
}

// Sets what `__receive__` calls, by which code of the kernel and values of cells pass through the inspector.
function setReceiver(receiver) {
    receive = receiver
}

function configure(set, unset) {
    Object.assign(process.env, set)
    for (const name of unset) delete process.env[name]
}

function showResult(value) {
    if (value !== undefined) writeResult(bundleOf(value), true)
}

function makeRequire() {
    const here = () => Module.createRequire(path.join(process.cwd(), '[cell]'))
    const require = (name) => here()(name)
    require.resolve = (name, options) => here().resolve(name, options)
    require.main = globalThis.module
    require.cache = Module._cache
    return require
}

// Imports are resolved as from a file in the working directory, which a function compiled under such a name does.
const importers = new Map()
function importFromCwd(name) {
    const cwd = process.cwd()
    if (!importers.has(cwd)) {
        const cell = new Module(path.join(cwd, '[cell].cjs'))
        cell._compile('module.exports = (name) => import(name)', path.join(cwd, '[cell].cjs'))
        importers.set(cwd, cell.exports)
    }
    return importers.get(cwd)(name)
}

function makeDisplays() {
    const mime = (bundle) => writeResult(bundle, false)
    const as = (type) => (data) => mime({ [type]: Buffer.isBuffer(data) ? data.toString('base64') : data })
    return {
        mime,
        display: (value) => mime(bundleOf(value)),
        text: as('text/plain'),
        html: as('text/html'),
        markdown: as('text/markdown'),
        latex: as('text/latex'),
        svg: as('image/svg+xml'),
        png: as('image/png'),
        jpeg: as('image/jpeg'),
        json: as('application/json'),
        javascript: as('application/javascript'),
    }
}

// Returns the MIME bundle of a value: its own (`Symbol.for('Jupyter.display')`), or its text, with JSON of plain data.
function bundleOf(value) {
    const own = value?.[Symbol.for('Jupyter.display')]
    if (typeof own === 'function') return own.call(value)
    const bundle = { 'text/plain': util.inspect(value) }
    if (isPlain(value)) {
        try {
            const text = JSON.stringify(value)
            if (text !== undefined && text.length <= MAX_JSON) bundle['application/json'] = JSON.parse(text)
        } catch {
            // Cycles and BigInts have no JSON.
        }
    }
    return bundle
}

function isPlain(value) {
    if (Array.isArray(value)) return true
    if (value === null || typeof value !== 'object') return false
    return [Object.prototype, null].includes(Object.getPrototypeOf(value))
}

function describeError(thrown) {
    const isError = util.types.isNativeError(thrown) || thrown instanceof Error
    const name = isError ? String(thrown.name) : 'Error'
    const value = isError ? String(thrown.message) : util.inspect(thrown)
    const traceback = isError ? String(thrown.stack ?? `${name}: ${value}`) : value
    // Below the cell come the frames that called it.
    const own = traceback.split('\n')
    const first = own.findIndex((line) => line.includes('at Session.post (node:inspector'))
    const lines = first < 0 ? own : own.slice(0, first)
    return { name, value, traceback: lines.join('\n') }
}

module.exports = { configure, describeError, install, setReceiver, showResult }
