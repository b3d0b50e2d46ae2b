// JavaScript as a kernel: `kernel.cjs REQUESTS LINES`, two descriptors. Requests are JSON objects, one a line, and so
// is what is written: results, errors, and the end of each request.
//
// Cells are evaluated by V8's inspector, as developer tools do: its REPL mode has top-level await, values of
// statements, and declarations that may come again. The call is made by a script that SIGINT breaks, which ends code
// that does not yield; a cell that waits for a promise is given up.
'use strict'

const fs = require('node:fs')
const readline = require('node:readline')

const { Driver } = require('./driver.cjs')
const globals = require('./globals.cjs')

const [requests, lines] = process.argv.slice(2).map(Number)
const write = (message) => fs.writeSync(lines, JSON.stringify(message) + '\n')
globals.install((bundle, main) => write({ type: 'result', bundle, main }))
const driver = new Driver(write)
process.on('SIGINT', () => driver.interrupt())
const input = fs.createReadStream(null, { fd: requests, autoClose: false })
readline.createInterface({ input, crlfDelay: 0 }).on('line', (line) => driver.handle(JSON.parse(line)))
