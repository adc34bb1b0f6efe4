import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { describe, expect, it } from "vitest"
import { choose, factsOf, type ResolverFacts } from "../../../src/layers/dns/chooseMethod.ts"

const FILE = "/etc/resolv.conf"
const file: ResolverFacts = {
  kind: "file",
  link: "",
  text: "nameserver 192.0.2.1\n",
  isWritable: true,
  canTellResolved: true
}
const link = (to: string): ResolverFacts => ({ ...file, kind: "link", link: to, text: "", isWritable: false })
const STUB = "/run/systemd/resolve/stub-resolv.conf"

describe("auto", () => {
  it.each<[string, ResolverFacts, string]>([
    ["a file of its own", file, "etc-resolv-conf"],
    ["an empty file", { ...file, text: "" }, "etc-resolv-conf"],
    ["the link to the stub", link(STUB), "systemd-resolved"],
    ["the link to the servers behind it", link("/run/systemd/resolve/resolv.conf"), "systemd-resolved"],
    ["the link by its old name", link("/var/run/systemd/resolve/stub-resolv.conf"), "systemd-resolved"],
    ["the link to the fixed file", link("/usr/lib/systemd/resolv.conf"), "systemd-resolved"],
    ["a copy of the stub's file", { ...file, text: "nameserver 127.0.0.53\noptions edns0\n" }, "systemd-resolved"],
    ["the stub without its command", { ...link(STUB), canTellResolved: false }, "disabled"],
    ["a link of others", link("/run/NetworkManager/resolv.conf"), "disabled"],
    ["a link that only looks like it", link("/tmp/run/systemd/resolve/resolv.conf"), "disabled"],
    ["no file", { ...file, kind: "missing" }, "disabled"],
    ["a file that may not be written", { ...file, isWritable: false }, "disabled"],
    [
      "a file that a run left, which must be taken back",
      { ...file, text: "# BEGIN Firezone DNS configuration\nnameserver 127.0.0.53\n", isWritable: false },
      "etc-resolv-conf"
    ]
  ])("%s", (_, facts, expected) => {
    const { method, reason } = choose(FILE, facts)
    expect(method).toBe(expected)
    expect(reason).toContain(FILE)
    expect(reason.includes("names of resources will not resolve")).toBe(expected === "disabled")
  })

  it("looks where a relative link leads to", () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "choose-"))
    try {
      const at = path.join(folder, "resolv.conf")
      expect(factsOf(at, true).kind).toBe("missing")
      fs.writeFileSync(at, "nameserver 192.0.2.1\n")
      expect(factsOf(at, true)).toEqual(file)
      fs.rmSync(at)
      fs.symlinkSync("../run/systemd/resolve/stub-resolv.conf", at)
      expect(factsOf(at, true)).toMatchObject({ kind: "link", link: path.join(folder, "..", STUB) })
      fs.rmSync(at)
      fs.mkdirSync(at)
      expect(factsOf(at, true).kind).toBe("other")
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })
})
