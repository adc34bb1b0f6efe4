import { describe, expect, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"
import { EXIT } from "../../src/programs/outcome.ts"
import { describeWith } from "../support/requires.ts"

const NAME = "firezone-headless-client.service"
const unit = fs.readFileSync(path.join(import.meta.dirname, "../../packaging/systemd", NAME), "utf8")
const valuesOf = (key: string) => [...unit.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value]) => value)

describe("the unit", () => {
  it("runs the client, takes its DNS settings back, and does not try a refused token again", () => {
    expect(valuesOf("ExecStart")).toEqual(["/usr/bin/firezone-headless-client"])
    expect(valuesOf("ExecStopPost")).toEqual(["/usr/bin/firezone-headless-client dns-cleanup"])
    expect(valuesOf("RestartPreventExitStatus")).toEqual([`${EXIT.usage} ${EXIT.signedOut}`])
  })
})

describeWith({ programs: ["systemd-analyze"] }, "the unit, to systemd", () => {
  let folder = ""
  let file = ""
  const analyze = (...args: ReadonlyArray<string>) => {
    const { status, stderr, stdout } = spawnSync("systemd-analyze", args, { encoding: "utf8" })
    return { status, stderr, stdout }
  }
  const verify = (text: string) => {
    fs.writeFileSync(file, text)
    return analyze("verify", "--man=no", "--recursive-errors=no", file)
  }
  // It wants programs that exist.
  const installed = unit.replaceAll("/usr/bin/firezone-headless-client", process.execPath)

  beforeAll(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "unit-"))
    file = path.join(folder, NAME)
  })
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it("holds nothing that it does not know", () => {
    expect(verify(installed)).toEqual({ status: 0, stderr: "", stdout: "" })
    expect(verify(installed.replace("LockPersonality", "LockPersonalities")).stderr).toContain("LockPersonalities")
  })

  it("exposes little", () => {
    fs.writeFileSync(file, unit)
    const { status, stdout } = analyze("security", "--offline=true", "--threshold=30", file)
    expect(stdout).toContain("Overall exposure level")
    expect(status).toBe(0)
  })
})
