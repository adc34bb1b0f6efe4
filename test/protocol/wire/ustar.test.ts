import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { encodeTar } from "../../../src/protocol/wire/ustar.ts"
import { describeWith } from "../../support/requires.ts"

const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => index * 7)

describeWith({ programs: ["tar"] }, "a tar, to another program", () => {
  let folder = ""
  beforeAll(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "ustar-"))
  })
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it("holds the files, whatever their length", () => {
    const files = [0, 1, 511, 512, 513, 100_000].map((length) => ({ name: `a/b/${length}`, bytes: bytes(length) }))
    const archive = encodeTar([...files, { name: "x".repeat(100), bytes: bytes(3) }], 1_700_000_000)
    expect(archive.length % 512).toBe(0)
    fs.writeFileSync(path.join(folder, "it.tar"), archive)
    const list = execFileSync("tar", ["-tvf", "it.tar", "--utc"], { cwd: folder, encoding: "utf8" }).trim().split("\n")
    expect(list).toHaveLength(7)
    for (const line of list) expect(line).toMatch(/^-rw------- root\/root +\d+ 2023-11-14 22:13 /)
    execFileSync("tar", ["-xf", "it.tar", "--no-same-owner"], { cwd: folder })
    for (const { bytes, name } of files) expect([...fs.readFileSync(path.join(folder, name))]).toEqual([...bytes])
    expect(fs.statSync(path.join(folder, "x".repeat(100))).size).toBe(3)
  })
})

describe("a tar", () => {
  it("takes no name that would leave its folder, or that it cannot hold", () => {
    for (const name of ["", "/etc/passwd", "../x", "a/../x", "a//b", "a/", ".", "x".repeat(101), "ä", "a b", "a\0b"]) {
      expect(() => encodeTar([{ name, bytes: bytes(1) }], 0)).toThrow(RangeError)
    }
  })
})
