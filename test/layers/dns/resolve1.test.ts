import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fc from "fast-check"
import { parseServers, readServers } from "../../../src/layers/dns/resolve1.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import type { BusValue } from "../../../src/protocol/wire/dbus.ts"
import { BusRefused, SystemBus } from "../../../src/services/SystemBus.ts"
import { makeSystemBusDouble } from "../../support/SystemBusDouble.ts"

const server = (index: number, address: string, ...more: ReadonlyArray<BusValue>): BusValue => [
  index,
  address.includes(":") ? 10 : 2,
  ipToBytes(ip(address)),
  ...more
]
const property = (signature: string, ...value: ReadonlyArray<BusValue>): ReadonlyArray<BusValue> => [
  { signature, value }
]

describe("systemd-resolved's servers", () => {
  it("have the link that they are of, its scope with them, and their ports (host 18.33)", () => {
    assert.deepStrictEqual(parseServers(property("a(iiay)", server(0, "192.0.2.1"), server(3, "fe80::1"))), [
      { interfaceIndex: 0, address: ip("192.0.2.1"), port: 53 },
      { interfaceIndex: 3, address: ip("fe80::1"), port: 53 }
    ])
    assert.deepStrictEqual(
      parseServers(
        property("a(iiayqs)", server(2, "2001:db8::53", 0, "dns.example"), server(2, "192.0.2.1", 5353, ""))
      ),
      [
        { interfaceIndex: 2, address: ip("2001:db8::53"), port: 53 },
        { interfaceIndex: 2, address: ip("192.0.2.1"), port: 5353 }
      ]
    )
  })

  it("are none in what is something else", () => {
    for (
      const values of [
        [],
        ["text"],
        [7],
        [[server(0, "192.0.2.1")]],
        [Uint8Array.of(1)],
        property("as", "192.0.2.1"),
        property("a(iiays)", server(0, "192.0.2.1", "x"))
      ]
    ) assert.isUndefined(parseServers(values))
    const odd: ReadonlyArray<BusValue> = [[0, 2, new Uint8Array(5)], [0, 1, new Uint8Array(4)], [
      0,
      10,
      new Uint8Array()
    ]]
    assert.deepStrictEqual(parseServers(property("a(iiay)", ...odd)), [])
  })

  it("are not more than a system can have", () => {
    const many = Array.from({ length: 1000 }, (_, i) => server(i, "192.0.2.1"))
    assert.isAtMost(parseServers(property("a(iiay)", ...many))?.length ?? 0, 64)
  })

  it("are addresses whatever the bytes", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer(), fc.constantFrom(2, 10, 0), fc.uint8Array({ maxLength: 17 }))),
        (them) => {
          for (const { address } of parseServers(property("a(iiay)", ...them)) ?? []) {
            assert.strictEqual(
              address,
              ip(address)
            )
          }
        }
      )
    )
  })

  const reading = (properties: Readonly<Record<string, ReadonlyArray<BusValue>>>) =>
    Effect.gen(function*() {
      const double = makeSystemBusDouble()
      double.answer = ({ body, member }) => {
        const found = properties[String(body?.[1])]
        return found === undefined
          ? new BusRefused({ member, error: "org.freedesktop.DBus.Error.UnknownProperty", reason: "" })
          : Effect.succeed(found)
      }
      return yield* readServers(yield* Effect.provide(SystemBus, double.layer), ({ address }) =>
        address.startsWith("100.100.111."))
    }).pipe(Effect.map((servers) =>
      servers.map(({ address, port }) => `${address} ${port}`)
    ))

  it.effect("are read with their ports, and without by versions that do not tell them", () =>
    Effect.gen(function*() {
      const known = { DNS: property("a(iiay)", server(0, "192.0.2.1")) }
      assert.deepStrictEqual(yield* reading(known), ["192.0.2.1 53"])
      assert.deepStrictEqual(
        yield* reading({ ...known, DNSEx: property("a(iiayqs)", server(0, "192.0.2.1", 853, "")) }),
        ["192.0.2.1 853"]
      )
      assert.strictEqual((yield* Effect.flip(reading({})))._tag, "BusRefused")
    }))

  it.effect("are those that it falls back to when only ours are left", () =>
    Effect.gen(function*() {
      const ours = { DNS: property("a(iiay)", server(9, "100.100.111.1")) }
      assert.deepStrictEqual(yield* reading(ours), [])
      assert.deepStrictEqual(
        yield* reading({ ...ours, FallbackDNS: property("a(iiay)", server(0, "192.0.2.9")) }),
        ["192.0.2.9 53"]
      )
    }))
})
