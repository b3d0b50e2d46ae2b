// All tests: node main.mjs
import './commands.mjs'
import './pty.mjs'
import './files.mjs'
import './git.mjs'
import './sandboxes.mjs'
import './errors.mjs'
import './absent.mjs'
