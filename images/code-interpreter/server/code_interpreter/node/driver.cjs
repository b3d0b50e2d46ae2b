// Evaluates cells through the inspector of this thread.
'use strict'

const inspector = require('node:inspector')
const vm = require('node:vm')

const globals = require('./globals.cjs')
const { toScript } = require('./source.cjs')

const breakable = new vm.Script('globalThis.__receive__()', { filename: '[kernel]' })
const INTERRUPTED = 'ERR_SCRIPT_EXECUTION_INTERRUPTED'

class Driver {
    constructor(write) {
        this.write = write
        this.session = new inspector.Session()
        this.session.connect()
        this.giveUp = null
    }

    async handle(request) {
        try {
            if (request.type === 'execute') await this.execute(request)
            else if (request.type === 'configure') globals.configure(request.set, request.unset)
        } catch (error) {
            if (error?.code === INTERRUPTED) this.fail('KeyboardInterrupt', 'the cell was interrupted')
            else this.fail(error.name, error.message, error.stack)
        }
        this.write({ type: 'done' })
    }

    async execute({ code, language }) {
        let script
        try {
            script = toScript(code, language)
        } catch (error) {
            return this.fail('SyntaxError', error.message, error.message)
        }
        const interrupted = new Promise((resolve) => { this.giveUp = resolve })
        const answer = await Promise.race([this.evaluate(script), interrupted]).finally(() => { this.giveUp = null })
        if (answer === INTERRUPTED) return this.fail('KeyboardInterrupt', 'the cell was interrupted')
        const thrown = answer.exceptionDetails
        if (thrown && !thrown.exception) return this.fail('Error', thrown.text, thrown.text)
        const value = await this.valueOf(thrown ? thrown.exception : answer.result)
        if (thrown) this.write({ type: 'error', ...globals.describeError(value) })
        else globals.showResult(value)
        this.post('Runtime.discardConsoleEntries').catch(() => {})
    }

    // Asks for the evaluation, whose synchronous part runs before this returns.
    evaluate(expression) {
        const parameters = { expression, replMode: true, awaitPromise: true, silent: true }
        return breakOnInterrupt(() => this.post('Runtime.evaluate', parameters))
    }

    interrupt() {
        this.giveUp?.(INTERRUPTED)
    }

    // Returns the value that a remote object of the inspector stands for.
    async valueOf(remote) {
        if (!remote.objectId) return remote.unserializableValue ? evaluateLiteral(remote) : remote.value
        let value
        globals.setReceiver((it) => { value = it })
        await this.post('Runtime.callFunctionOn', {
            functionDeclaration: 'function () { globalThis.__receive__(this) }',
            objectId: remote.objectId,
            silent: true,
        })
        return value
    }

    post(method, parameters) {
        return new Promise((resolve, reject) =>
            this.session.post(method, parameters, (error, answer) =>
                error ? reject(toError(error)) : resolve(answer),
            ),
        )
    }

    fail(name, value, traceback) {
        this.write({ type: 'error', name, value, traceback: traceback ?? '' })
    }
}

// Calls a function that SIGINT breaks: a script calls it by way of a global, since only scripts are broken.
function breakOnInterrupt(run) {
    globals.setReceiver(run)
    return breakable.runInThisContext({
        breakOnSigint: true,
        displayErrors: false,
    })
}

// -0, NaN, Infinity and BigInts, as the inspector writes them.
function evaluateLiteral({ unserializableValue }) {
    return vm.runInThisContext(`(${unserializableValue})`)
}

function toError(error) {
    return Object.assign(new Error(error.message), { name: 'InspectorError' })
}

module.exports = { Driver }
