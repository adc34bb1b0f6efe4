// `npm run lab` alone runs the scenario "direct"; anything behind `--` goes to the `lab` command as it is.
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const args = process.argv.slice(2)
const executable = join(dirname(fileURLToPath(import.meta.url)), "..", "dist", "bin", "firezone-headless-client.js")
// In this very process: one between npm and the lab would have to pass on signals and exit codes.
process.argv.splice(1, process.argv.length, executable, "lab", ...(args.length === 0 ? ["run", "direct"] : args))
await import(pathToFileURL(executable).href)
