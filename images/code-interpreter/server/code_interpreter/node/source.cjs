// Makes scripts for V8's REPL mode of cells, which may be modules or TypeScript.
'use strict'

const { spawnSync } = require('node:child_process')

const acorn = load('acorn')
// A cell imports what later ones use, so that no import may be dropped as unused.
const TSCONFIG = JSON.stringify({ compilerOptions: { preserveValueImports: true, useDefineForClassFields: true } })

// Debian's packages are found by Debian's Node alone.
function load(name) {
    try {
        return require(name)
    } catch {
        return require(`/usr/share/nodejs/${name}`)
    }
}

// Returns the script of a cell. Throws what is wrong with its types' syntax; V8 tells what is wrong with the rest.
function toScript(code, language) {
    const script = language === 'typescript' ? withoutTypes(code) : code
    return withoutModules(script)
}

function withoutTypes(code) {
    const options = ['--loader=ts', '--target=es2022', '--log-level=error', '--color=false']
    options.push(`--tsconfig-raw=${TSCONFIG}`)
    const done = spawnSync('esbuild', options, { input: code, encoding: 'utf8', maxBuffer: 64 << 20 })
    if (done.error) throw new Error(`TypeScript needs esbuild: ${done.error.message}`)
    if (done.status !== 0) throw new Error(done.stderr.trim())
    return done.stdout
}

// Replaces imports and exports, which scripts cannot have.
function withoutModules(code) {
    if (!/\b(import|export)\b/.test(code)) return code
    let tree
    try {
        tree = acorn.parse(code, { ecmaVersion: 'latest', sourceType: 'module', allowAwaitOutsideFunction: true })
    } catch {
        return code
    }
    const edits = []
    for (const node of tree.body) editStatement(node, code, edits)
    visit(tree, (node) => {
        if (node.type === 'ImportExpression') {
            edits.push([node.start, node.start + 'import'.length, '__import__'])
        }
    })
    return apply(code, edits)
}

function editStatement(node, code, edits) {
    if (node.type === 'ImportDeclaration') {
        edits.push([node.start, node.end, importStatement(node)])
    } else if (node.type === 'ExportNamedDeclaration') {
        edits.push([node.start, node.declaration ? node.declaration.start : node.end, ''])
    } else if (node.type === 'ExportDefaultDeclaration') {
        const isNamed = node.declaration.id
        edits.push([node.start, node.declaration.start, isNamed ? '' : '('])
        if (!isNamed) edits.push([node.declaration.end, node.declaration.end, ')'])
    } else if (node.type === 'ExportAllDeclaration') {
        edits.push([node.start, node.end, ''])
    }
}

function importStatement(node) {
    const module = `await __import__(${JSON.stringify(node.source.value)})`
    if (node.specifiers.length === 0) return `${module};`
    const named = []
    const statements = []
    for (const specifier of node.specifiers) {
        const local = specifier.local.name
        if (specifier.type === 'ImportNamespaceSpecifier') statements.push(`const ${local} = ${module};`)
        else if (specifier.type === 'ImportDefaultSpecifier') named.push(`default: ${local}`)
        else named.push(`${JSON.stringify(specifier.imported.name ?? specifier.imported.value)}: ${local}`)
    }
    if (named.length > 0) statements.push(`const { ${named.join(', ')} } = ${module};`)
    return statements.join(' ')
}

function visit(node, see) {
    if (Array.isArray(node)) {
        for (const item of node) visit(item, see)
    } else if (node && typeof node.type === 'string') {
        see(node)
        for (const key of Object.keys(node)) visit(node[key], see)
    }
}

function apply(code, edits) {
    let result = code
    for (const [start, end, text] of edits.sort((a, b) => b[0] - a[0] || b[1] - a[1])) {
        result = result.slice(0, start) + text + result.slice(end)
    }
    return result
}

module.exports = { toScript }
