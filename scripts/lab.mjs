// `npm run lab` alone runs the scenario "direct"; anything behind `--` goes to the `lab` command as it is.
import { spawn } from "node:child_process"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const args = process.argv.slice(2)
const executable = join(dirname(fileURLToPath(import.meta.url)), "..", "dist", "bin", "firezone-headless-client.js")
const child = spawn(process.execPath, [executable, "lab", ...(args.length === 0 ? ["run", "direct"] : args)], {
  stdio: "inherit"
})
// The terminal sends Ctrl+C to both of us; the lab cleans up and tells us how it ended.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => signal === "SIGTERM" && child.kill(signal))
child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 1)))
