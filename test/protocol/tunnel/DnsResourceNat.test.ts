/** The table of tunnel spec 11, row by row. */
import { describe, expect, it } from "vitest"
import { parseDomainPattern } from "../../../src/protocol/dns/DomainPattern.ts"
import { NameRecord } from "../../../src/protocol/dns/ResourceResolver.ts"
import { ClientResource } from "../../../src/protocol/tunnel/ClientResource.ts"
import { readControlEvent } from "../../../src/protocol/tunnel/controlPacket.ts"
import { DnsResourceNat } from "../../../src/protocol/tunnel/DnsResourceNat.ts"
import { GatewayPeer } from "../../../src/protocol/tunnel/GatewayPeer.ts"
import { TunAddresses } from "../../../src/protocol/tunnel/TunAddresses.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { via } from "./client.ts"
import { dnsResource } from "./dns.ts"
import { uuid } from "./fixtures.ts"
import { parsed, udp } from "./packets.ts"

type Step = "packet" | "query" | "grant" | "active" | "inactive" | "wait"

class Setup {
  readonly gateway = new GatewayPeer(uuid(9), uuid(8), new TunAddresses(ip("100.64.1.1"), ip("fd00:2021:1111::1:1")))
  readonly resource = new ClientResource(dnsResource(1, "*.corp.test"))
  readonly record = new NameRecord<ClientResource>("a.corp.test", 0)
  sent = 0
  readonly nat = new DnsResourceNat((gateway, packet) => {
    expect(gateway).toBe(this.gateway)
    expect(readControlEvent(parsed(packet))).toMatchObject({ _tag: "AssignedIps", domain: "a.corp.test" })
    this.sent += 1
  })
  #now = 1000
  #packets = 0

  constructor() {
    const pattern = parseDomainPattern("*.corp.test")
    if (pattern === undefined) throw new Error("no pattern")
    this.resource.gateway = this.gateway
    const { record, resource } = this
    record.assignments = [
      { id: resource.id, pattern, ipStack: "dual", target: resource, isUsed: true, recent: new Set([record]) }
    ]
  }

  /** What a step does: `sent` for every control packet, `passed` or `kept` for a packet, the number of those released. */
  take(step: Step): string {
    const before = this.sent
    const what = this.#take(step)
    return [what, ...Array.from({ length: this.sent - before }, () => "sent")].filter((text) => text !== "").join(" ")
  }

  #take(step: Step): string {
    const { gateway, nat, record, resource } = this
    switch (step) {
      case "packet": {
        const packet = parsed(udp(via("100.96.0.1"), 1000 + this.#packets++))
        return nat.passes(record, resource, gateway, packet, this.#now) ? "passed" : "kept"
      }
      case "query":
        nat.queried(record, this.#now)
        return ""
      case "grant":
        nat.granted([record], resource, this.#now)
        return ""
      case "active":
      case "inactive":
        return `released ${nat.handleStatus(record, resource, gateway, step === "active").length}`
      case "wait":
        this.#now += 2000
        return ""
    }
  }
}

const rows: ReadonlyArray<readonly [string, ReadonlyArray<readonly [Step, string]>]> = [
  ["nothing is known: a packet begins it", [["packet", "kept sent"]]],
  ["nothing is known: a query begins it", [["query", "sent"]]],
  ["nothing is known: a grant begins it", [["grant", "sent"], ["packet", "kept"], ["active", "released 1"]]],
  ["pending: a grant tells again after 2 s", [["query", "sent"], ["grant", ""], ["wait", ""], ["grant", "sent"]]],
  ["confirmed: a grant changes nothing", [["query", "sent"], ["active", "released 0"], ["wait", ""], ["grant", ""]]],
  ["failed: a grant changes nothing", [["query", "sent"], ["inactive", "released 0"], ["wait", ""], ["grant", ""]]],
  ["nothing is known: a status means nothing", [["active", "released 0"], ["packet", "kept sent"]]],
  ["pending: packets wait, and tell again after 2 s", [
    ["packet", "kept sent"],
    ["packet", "kept"],
    ["wait", ""],
    ["packet", "kept sent"],
    ["packet", "kept"]
  ]],
  ["pending: queries tell again after 2 s", [["query", "sent"], ["query", ""], ["wait", ""], ["query", "sent"]]],
  ["pending: active releases", [["packet", "kept sent"], ["packet", "kept"], ["active", "released 2"], [
    "packet",
    "passed"
  ]]],
  ["pending: inactive drops", [["packet", "kept sent"], ["inactive", "released 0"], ["packet", "passed"]]],
  ["confirmed: stays so", [["query", "sent"], ["active", "released 0"], ["active", "released 0"], [
    "packet",
    "passed"
  ]]],
  ["confirmed: may fail", [["query", "sent"], ["active", "released 0"], ["inactive", "released 0"], [
    "packet",
    "passed"
  ]]],
  ["confirmed: a query tells again, and packets go on", [
    ["query", "sent"],
    ["active", "released 0"],
    ["query", "sent"],
    ["packet", "passed"],
    ["query", ""],
    ["wait", ""],
    ["packet", "passed sent"],
    ["active", "released 0"],
    ["wait", ""],
    ["packet", "passed"]
  ]],
  ["told again: may fail", [
    ["query", "sent"],
    ["active", "released 0"],
    ["query", "sent"],
    ["inactive", "released 0"],
    ["wait", ""],
    ["packet", "passed"]
  ]],
  ["failed: packets do not tell again, a query does, and then packets wait", [
    ["query", "sent"],
    ["inactive", "released 0"],
    ["wait", ""],
    ["packet", "passed"],
    ["query", "sent"],
    ["packet", "kept"],
    ["active", "released 1"],
    ["packet", "passed"]
  ]],
  ["failed: may become active", [["query", "sent"], ["inactive", "released 0"], ["active", "released 0"], [
    "packet",
    "passed"
  ]]]
]

describe("DnsResourceNat", () => {
  it.each(rows)("%s", (_, steps) => {
    const setup = new Setup()
    expect(steps.map(([step]) => setup.take(step))).toEqual(steps.map(([, what]) => what))
  })
  it("asks no gateway that gives no access", () => {
    const setup = new Setup()
    setup.resource.gateway = undefined
    expect(setup.take("query")).toBe("")
    setup.record.assignments = []
    expect(setup.take("query")).toBe("")
  })
  it.each(["forgetGateway", "forgetResource"] as const)("forgets everything: %s", (forget) => {
    const setup = new Setup()
    const { gateway, nat, record, resource } = setup
    expect(nat.isAllowedSource(record, gateway)).toBe(false)
    setup.take("packet")
    expect(nat.isAllowedSource(record, gateway)).toBe(true)
    if (forget === "forgetGateway") nat.forgetGateway(gateway)
    else nat.forgetResource(resource)
    expect([nat.isAllowedSource(record, gateway), setup.take("active"), setup.take("packet")]).toEqual([
      false,
      "released 0",
      "kept sent"
    ])
  })
})
