import { describe, expect, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"
import { EXIT } from "../../src/programs/outcome.ts"
import { describeWith } from "../support/requires.ts"

const root = path.join(import.meta.dirname, "../..")
const read = (name: string) => fs.readFileSync(path.join(root, "packaging/systemd", name), "utf8")
const valuesOf = (unit: string, key: string) =>
  [...unit.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value]) => value)

const NAME = "firezone-headless-client.service"
const TUNNEL = "firezone-client-tunnel.service"

describe("the unit", () => {
  const unit = read(NAME)
  it("runs the client, takes its DNS settings back, and does not try a refused token again", () => {
    expect(valuesOf(unit, "ExecStart")).toEqual(["/usr/bin/firezone-headless-client"])
    expect(valuesOf(unit, "ExecStopPost")).toEqual(["/usr/bin/firezone-headless-client dns-cleanup"])
    expect(valuesOf(unit, "RestartPreventExitStatus")).toEqual([`${EXIT.usage} ${EXIT.signedOut}`])
  })
})

describe("the unit of the tunnel service", () => {
  const unit = read(TUNNEL)
  it("runs the service for the group that it has made, takes its DNS settings back, and has two capabilities", () => {
    expect(valuesOf(unit, "ExecStart")).toEqual(["/usr/bin/firezone-client-tunnel run"])
    expect(valuesOf(unit, "ExecStopPost")).toEqual(["/usr/bin/firezone-client-tunnel dns-cleanup"])
    const [group] = valuesOf(unit, "Group")
    const sysusers = fs.readFileSync(path.join(root, "packaging/sysusers/firezone-client-tunnel.conf"), "utf8")
    expect(sysusers).toMatch(new RegExp(`^g ${group} -$`, "m"))
    expect(valuesOf(unit, "CapabilityBoundingSet")).toEqual(["CAP_NET_ADMIN CAP_SYS_PTRACE"])
  })

  it("is as tight as the client's, but for what it needs more", () => {
    const settings = (text: string) => new Set(text.split("\n").filter((line) => /^[A-Z]\w+=/.test(line)))
    const own = settings(unit)
    const missing = [...settings(read(NAME))].filter((line) => !own.has(line)).map((line) => line.split("=")[0])
    expect([...new Set(missing)].sort()).toEqual([
      "After",
      "AssertPathExists",
      "CapabilityBoundingSet",
      "Description",
      "Documentation",
      "Environment",
      "EnvironmentFile",
      "ExecStart",
      "ExecStopPost",
      "LoadCredential",
      "LogsDirectoryMode",
      "RestartPreventExitStatus",
      "SystemCallFilter",
      "UMask",
      "Wants"
    ])
  })
})

for (const name of [NAME, TUNNEL]) {
  describeWith({ programs: ["systemd-analyze"] }, `${name}, to systemd`, () => {
    const unit = read(name)
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
    const installed = unit.replaceAll(/\/usr\/bin\/firezone-[a-z-]+/g, process.execPath)

    beforeAll(() => {
      folder = fs.mkdtempSync(path.join(os.tmpdir(), "unit-"))
      file = path.join(folder, name)
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
}
