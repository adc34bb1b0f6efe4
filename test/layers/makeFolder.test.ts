import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterEach, assert, beforeEach, describe, it } from "vitest"
import { makeFolder } from "../../src/layers/makeFolder.ts"

let root = ""
beforeEach(() => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), "fz-folder-"))
})
afterEach(() => fs.rmSync(root, { recursive: true }))

describe("makeFolder", () => {
  it("makes what is missing, tells whether the folder was, and takes one that is there", () => {
    const folder = path.join(root, "a", "b", "c")
    assert.isTrue(makeFolder(folder, 0o750))
    assert.isTrue(fs.statSync(folder).isDirectory())
    assert.strictEqual(fs.statSync(path.join(root, "a")).mode & 0o777, 0o750 & ~process.umask())
    assert.isFalse(makeFolder(folder, 0o700))
    assert.isFalse(makeFolder("/", 0o700))
    fs.symlinkSync(folder, path.join(root, "link"))
    assert.isFalse(makeFolder(path.join(root, "link"), 0o700))
    assert.isTrue(makeFolder(path.join(root, "link", "d"), 0o700))
  })

  it("refuses a file in place of the folder or of a parent, and a link to nothing", () => {
    const file = path.join(root, "file")
    fs.writeFileSync(file, "")
    assert.throws(() => makeFolder(file, 0o700), /EEXIST/)
    assert.throws(() => makeFolder(path.join(file, "x"), 0o700), /ENOTDIR/)
    assert.throws(() => makeFolder(path.join(file, "x", "y"), 0o700), /ENOTDIR/)
    fs.symlinkSync(path.join(root, "nowhere"), path.join(root, "link"))
    assert.throws(() => makeFolder(path.join(root, "link"), 0o700), /ENOENT/)
  })

  it.runIf(process.platform === "linux")("ends below a folder in which nobody can make one", () => {
    for (const folder of ["/proc/x", "/proc/x/y/z"]) assert.throws(() => makeFolder(folder, 0o700), /ENOENT/)
  })
})
