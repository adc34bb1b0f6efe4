/** The translation of addresses that stand for names: tunnel spec 14.5. */
import { beforeEach, describe, expect, it } from "vitest"
import { Inward } from "../../../src/protocol/tunnel/NatTable.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { IcmpError, parseIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { setDestination, setDestinationPort, setSource, setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { NatHarness, SECOND } from "./nat.ts"
import { icmp, icmpError, isIntact, other, parsed, ping, summary, tcp, udp } from "./packets.ts"

const CLIENT = "100.64.0.1"
const PROXY = "100.96.0.1"
const OTHER_PROXY = "100.96.0.2"
const HOST = "10.0.0.1"
const OTHER_HOST = "10.0.0.2"
const v4 = { client: CLIENT, proxy: PROXY, otherProxy: OTHER_PROXY, host: HOST }
const v6 = {
  client: "fd00:2021:1111::1",
  proxy: "fd00:2021:1111:8000::",
  otherProxy: "fd00:2021:1111:8000::1",
  host: "2001:db8::1"
}

const FIN = 0x11
const SYN = 0x02
const RST = 0x04

let nat: NatHarness
beforeEach(() => {
  nat = new NatHarness()
})

const out = (packet: Uint8Array, host = HOST): Uint8Array | undefined => nat.out(packet, host)
const back = (packet: Uint8Array): Uint8Array | Inward => nat.back(packet)
const advance = (millis: number): void => nat.advance(millis)
/** Sessions from many ports of the client, quicker than by `out`. */
const open = (host: string, lastPort: number): void => {
  const packet = udp({ from: CLIENT, to: PROXY })
  const address = ipToBytes(ip(host))
  for (let port = 1; port <= lastPort; port++) {
    const view = parsed(packet)
    setSourcePort(view, port)
    if (!nat.table.translateOut(view, address, nat.now)) throw new Error(`no way out for port ${port}`)
    setDestination(view, proxyBytes)
  }
}
const proxyBytes = ipToBytes(ip(PROXY))

/** The answer of whoever got `packet`: ends are exchanged. */
const answer = (packet: Uint8Array | undefined, flags?: number): Uint8Array => {
  const bytes = (packet ?? fail()).slice()
  const view = parsed(bytes)
  const size = view.version === 4 ? 4 : 16
  const at = view.version === 4 ? 12 : 8
  const [from, to] = [bytes.slice(at, at + size), bytes.slice(at + size, at + 2 * size)]
  const { destinationPort, sourcePort } = view
  setSource(view, to)
  setDestination(view, from)
  setSourcePort(view, destinationPort)
  setDestinationPort(view, sourcePort)
  if (flags !== undefined) bytes[view.transport + 13] = flags
  return bytes
}
const fail = (): never => {
  throw new Error("nothing was sent")
}

const portsOf = (packet: Uint8Array | undefined) => {
  const { destinationPort, sourcePort } = parsed(packet ?? fail())
  return { sourcePort, destinationPort }
}

describe("a packet", () => {
  it("goes to the host with the client's own port, and its answer comes from the proxy address", () => {
    const sent = out(udp({ from: CLIENT, to: PROXY }))
    expect(sent).toEqual(udp({ from: CLIENT, to: HOST }))
    expect(back(answer(sent))).toEqual(answer(udp({ from: CLIENT, to: PROXY })))
  })
  it("of every protocol and family comes back as it went out", () => {
    for (const { client, host, proxy } of [v4, v6]) {
      for (const make of [udp, tcp, ping]) {
        const packet = make({ from: client, to: proxy })
        const sent = out(packet, host)
        expect(summary(sent ?? fail())).toBe(summary(make({ from: client, to: host })))
        expect(back(answer(sent))).toEqual(answer(packet))
      }
    }
    expect(nat.table.size).toBe(6)
  })
  it("takes the next free port, after the last one the first, where another session has it", () => {
    const from = (proxy: string, port: number) => out(udp({ from: CLIENT, to: proxy }, 53, "", port))
    expect(portsOf(from(PROXY, 65_535)).sourcePort).toBe(65_535)
    expect(portsOf(from(OTHER_PROXY, 65_535)).sourcePort).toBe(1)
    expect(portsOf(from(PROXY, 1)).sourcePort).toBe(2)
    // Another host, another protocol: nothing is taken there.
    expect(portsOf(out(udp({ from: CLIENT, to: "100.96.0.3" }, 53, "", 1), OTHER_HOST)).sourcePort).toBe(1)
    expect(portsOf(out(ping({ from: CLIENT, to: PROXY }, 65_535))).sourcePort).toBe(65_535)
  })
  it("to another port of the same address is of the same session", () => {
    const first = out(udp({ from: CLIENT, to: PROXY }, 53))
    const second = out(udp({ from: CLIENT, to: PROXY }, 54))
    expect(portsOf(first).sourcePort).toBe(portsOf(second).sourcePort)
    expect(nat.table.size).toBe(1)
  })
  it("stays with its host when the proxy address has come to stand for another", () => {
    out(udp({ from: CLIENT, to: PROXY }))
    expect(out(udp({ from: CLIENT, to: PROXY }), OTHER_HOST)).toEqual(udp({ from: CLIENT, to: HOST }))
    expect(out(udp({ from: CLIENT, to: PROXY }, 5000, "hello", 1), OTHER_HOST)).toEqual(
      udp({ from: CLIENT, to: OTHER_HOST }, 5000, "hello", 1)
    )
  })
  it("without a port finds no way out", () => {
    expect(out(other({ from: CLIENT, to: PROXY }, 47))).toBeUndefined()
    expect(out(icmp({ from: CLIENT, to: PROXY }, 13))).toBeUndefined()
    expect(nat.table.size).toBe(0)
  })
  it("that no session knows is left as it is", () => {
    out(udp({ from: CLIENT, to: PROXY }))
    for (
      const packet of [
        udp({ from: OTHER_HOST, to: CLIENT }, 40_000),
        udp({ from: HOST, to: CLIENT }, 40_001),
        tcp({ from: HOST, to: CLIENT }, 40_000),
        other({ from: HOST, to: CLIENT }, 47),
        icmp({ from: HOST, to: CLIENT }, 13)
      ]
    ) expect(back(packet)).toBe(Inward.Foreign)
  })
  it("finds no port when all are taken", () => {
    open(HOST, 0xffff)
    expect(out(udp({ from: CLIENT, to: OTHER_PROXY }))).toBeUndefined()
    expect(out(udp({ from: CLIENT, to: OTHER_PROXY }), OTHER_HOST)).toBeDefined()
    // And there is an end to what one client may have.
    expect(nat.table.size).toBe(65_536)
    expect(out(udp({ from: CLIENT, to: "100.96.0.3" }), OTHER_HOST)).toBeUndefined()
  })
})

describe("an ICMP error", () => {
  it("about a packet that was translated quotes what the client has sent, from the proxy address", () => {
    for (const { client, host, otherProxy, proxy } of [v4, v6]) {
      for (const make of [udp, tcp, ping]) {
        // Another session has the port.
        out(make({ from: client, to: otherProxy }), host)
        const packet = make({ from: client, to: proxy })
        const sent = out(packet, host)
        expect(portsOf(sent)).not.toEqual(portsOf(packet))
        const error = icmpError(sent ?? fail(), "unreachable-net")
        setSource(parsed(error), ipToBytes(ip(client.includes(":") ? "2001:db8::ffff" : "10.0.0.254")))
        const received = back(error)
        if (!(received instanceof Uint8Array)) throw new Error("not translated")
        expect(isIntact(received)).toBe(true)
        const found = new IcmpError()
        expect(parseIcmpError(parsed(received), found)).toBe(true)
        const { destination, source } = parsed(packet)
        expect(found.failed).toMatchObject({ source, destination, ...portsOf(packet) })
        expect(summary(received)).toBe(summary(icmpError(packet, "unreachable-net")))
        expect(received[client.includes(":") ? 7 : 8]).toBe(20)
        expect(received.length).toBe(error.length)
      }
    }
  })
  it("keeps the MTU that it tells of", () => {
    const tooBig = icmpError(out(udp({ from: v6.client, to: v6.proxy }), v6.host) ?? fail())
    tooBig.set([2, 0, 0, 0, 0, 0, 5, 0], 40)
    const received = back(tooBig)
    if (!(received instanceof Uint8Array)) throw new Error("not translated")
    const found = new IcmpError()
    parseIcmpError(parsed(received), found)
    expect([found.type, found.mtu]).toEqual([2, 1280])
  })
  it("neither confirms a session nor keeps it", () => {
    const sent = out(udp({ from: CLIENT, to: PROXY })) ?? fail()
    advance(59 * SECOND)
    expect(back(icmpError(sent))).toBeInstanceOf(Uint8Array)
    advance(SECOND)
    expect(back(icmpError(sent))).toBe(Inward.Expired)
  })
  it("about anything else is left as it is", () => {
    out(udp({ from: CLIENT, to: PROXY }))
    expect(back(icmpError(udp({ from: CLIENT, to: OTHER_HOST })))).toBe(Inward.Foreign)
    expect(back(icmp({ from: HOST, to: CLIENT }, 3))).toBe(Inward.Foreign)
  })
})

describe("a session", () => {
  it("without an answer ends 60 s after the last packet out, whatever else", () => {
    const sent = out(udp({ from: CLIENT, to: PROXY }))
    advance(59 * SECOND)
    out(udp({ from: CLIENT, to: PROXY }))
    advance(59 * SECOND)
    expect(nat.table.size).toBe(1)
    advance(SECOND)
    expect(nat.table.size).toBe(0)
    expect(back(answer(sent))).toBe(Inward.Expired)
  })
  it("ends after 2 minutes of silence, of TCP after 2 hours and 4 minutes", () => {
    const idle = { udp: 120, ping: 120, tcp: 7440 }
    for (const [name, make] of Object.entries({ udp, ping, tcp })) {
      nat = new NatHarness()
      const sent = out(make({ from: CLIENT, to: PROXY }))
      advance(10 * SECOND)
      expect(back(answer(sent))).toBeInstanceOf(Uint8Array)
      advance((idle[name as keyof typeof idle] - 1) * SECOND)
      expect(nat.table.size).toBe(1)
      advance(SECOND)
      expect(nat.table.size).toBe(0)
      expect(back(answer(sent))).toBe(Inward.Expired)
    }
  })
  it("ends 5 s after both have finished", () => {
    const sent = out(tcp({ from: CLIENT, to: PROXY }, 443, FIN))
    advance(6 * SECOND)
    back(answer(sent, 0x10))
    advance(6 * SECOND)
    expect(nat.table.size).toBe(1)
    back(answer(sent, FIN))
    advance(4 * SECOND)
    out(tcp({ from: CLIENT, to: PROXY }))
    advance(4 * SECOND)
    expect(nat.table.size).toBe(1)
    advance(SECOND)
    expect(nat.table.size).toBe(0)
  })
  it("ends with a reset of either side", () => {
    back(answer(out(tcp({ from: CLIENT, to: PROXY })), RST))
    advance(SECOND)
    expect(nat.table.size).toBe(0)
    out(tcp({ from: CLIENT, to: PROXY }, 443, RST))
    advance(SECOND)
    expect(nat.table.size).toBe(0)
  })
  it("that is over gives way to a new connection from its port at once", () => {
    const sent = out(tcp({ from: CLIENT, to: PROXY }, 443, SYN))
    // Not to a repetition of the first packet, and not to one of an open connection.
    expect(out(tcp({ from: CLIENT, to: PROXY }, 443, SYN), OTHER_HOST)).toEqual(sent)
    back(answer(sent, RST))
    expect(out(tcp({ from: CLIENT, to: PROXY }), OTHER_HOST)).toEqual(tcp({ from: CLIENT, to: HOST }))
    const next = out(tcp({ from: CLIENT, to: PROXY }, 443, SYN), OTHER_HOST)
    expect(next).toEqual(tcp({ from: CLIENT, to: OTHER_HOST }, 443, SYN))
    advance(10 * SECOND)
    expect(back(answer(next))).toBeInstanceOf(Uint8Array)
    expect(back(answer(sent))).toBe(Inward.Expired)
  })
  it("that has ended is forgotten once another needs its port, or too many have ended since", () => {
    const first = out(udp({ from: CLIENT, to: PROXY }))
    advance(60 * SECOND)
    const second = out(udp({ from: CLIENT, to: OTHER_PROXY }))
    expect(second).toEqual(first)
    expect(back(answer(second))).toEqual(answer(udp({ from: CLIENT, to: OTHER_PROXY })))
    const third = out(ping({ from: CLIENT, to: PROXY }))
    advance(60 * SECOND)
    expect(back(answer(third))).toBe(Inward.Expired)
    back(answer(second))
    for (const host of ["10.0.0.3", "10.0.0.4"]) {
      open(host, 40_000)
      advance(60 * SECOND)
      expect(back(answer(second))).toEqual(answer(udp({ from: CLIENT, to: OTHER_PROXY })))
    }
    expect(back(answer(third))).toBe(Inward.Foreign)
    expect(back(udp({ from: "10.0.0.4", to: CLIENT }, 40_000))).toBe(Inward.Expired)
  })
  it("is forgotten with all others", () => {
    const sent = out(udp({ from: CLIENT, to: PROXY }))
    nat.table.clear()
    expect(back(answer(sent))).toBe(Inward.Foreign)
    expect(nat.table.size).toBe(0)
  })
})
