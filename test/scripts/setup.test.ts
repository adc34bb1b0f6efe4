import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { assert, it, onTestFinished } from "vitest"

it("setup leaves modules alone that a link leads to", () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-setup-"))
  onTestFinished(() => fs.rmSync(folder, { recursive: true }))
  const clone = path.join(folder, "clone")
  const module = path.join(folder, "shared", "module")
  fs.mkdirSync(path.join(clone, "scripts"), { recursive: true })
  fs.mkdirSync(path.dirname(module))
  fs.writeFileSync(module, "kept")
  fs.symlinkSync(path.dirname(module), path.join(clone, "node_modules"))
  fs.copyFileSync("scripts/setup.mjs", path.join(clone, "scripts", "setup.mjs"))
  fs.writeFileSync(path.join(clone, "package-lock.json"), "{}")
  const { status, stderr } = spawnSync(process.execPath, ["scripts/setup.mjs"], {
    cwd: clone,
    encoding: "utf8",
    // Nothing else may run: no npm is found.
    env: { PATH: "" }
  })
  assert.strictEqual(status, 0, stderr)
  assert.include(stderr, "node_modules is a link")
  assert.strictEqual(fs.readFileSync(module, "utf8"), "kept")
})
