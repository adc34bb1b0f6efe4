import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { nameserversOf } from "../../../src/layers/dns/resolvConfText.ts"
import { readResolvConf, type ResolvConfPaths } from "../../../src/layers/dns/systemServers.ts"

describe("nameserver lines", () => {
  it("are read around everything else, and comments begin anywhere", () => {
    const text = [
      "# nameserver 192.0.2.1",
      "; nameserver 192.0.2.2",
      "domain example",
      "nameserver 192.0.2.3 # the first",
      "\tnameserver\t2001:DB8::3;x",
      "nameserver fe80::1%eth0",
      "nameserver not-an-address",
      "nameserver",
      "nameservers 192.0.2.4",
      "options ndots:2",
      "nameserver 192.0.2.5\r"
    ].join("\n")
    expect(nameserversOf(text)).toEqual(["192.0.2.3", "2001:db8::3", "fe80::1%eth0", "192.0.2.5"])
    expect(nameserversOf("")).toEqual([])
  })
})

describe("resolv.conf", () => {
  let folder: string
  let paths: ResolvConfPaths
  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "resolv-"))
    paths = {
      resolvConf: path.join(folder, "resolv.conf"),
      backup: path.join(folder, "backup"),
      resolved: path.join(folder, "resolved")
    }
  })
  afterEach(() => fs.rmSync(folder, { recursive: true }))

  it("is read as it is", () => {
    fs.writeFileSync(paths.resolvConf, "nameserver 192.0.2.1\nnameserver 127.0.0.53\n")
    fs.writeFileSync(paths.backup, "nameserver 192.0.2.9\n")
    fs.writeFileSync(paths.resolved, "nameserver 192.0.2.8\n")
    expect(readResolvConf(paths)).toEqual(["192.0.2.1", "127.0.0.53"])
  })
  it("is read from before a session that is running or died", () => {
    fs.writeFileSync(paths.resolvConf, "# BEGIN Firezone DNS configuration\nnameserver 100.100.111.1\n")
    expect(readResolvConf(paths)).toEqual([])
    fs.writeFileSync(paths.backup, "nameserver 192.0.2.9\n")
    expect(readResolvConf(paths)).toEqual(["192.0.2.9"])
  })
  it("leads to the servers behind systemd-resolved", () => {
    fs.writeFileSync(paths.resolvConf, "nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    expect(readResolvConf(paths)).toEqual(["127.0.0.53"])
    fs.writeFileSync(paths.resolved, "nameserver 192.0.2.8\n")
    expect(readResolvConf(paths)).toEqual(["192.0.2.8"])
    fs.writeFileSync(paths.resolved, "# no servers known\n")
    expect(readResolvConf(paths)).toEqual([])
  })
  it("may be missing", () => {
    expect(readResolvConf(paths)).toEqual([])
  })
})
