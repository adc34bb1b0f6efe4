/** The rule of host spec section 11.6, notification by notification; on a real kernel in NetworkChangesLinux.test.ts. */
import * as FastCheck from "fast-check"
import { assert, beforeEach, describe, it } from "vitest"
import { type Envelope, readMessages } from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import { u32Bytes } from "../../../src/ffi/linux/rtnetlinkEncode.ts"
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  FRA,
  IFA,
  IFF,
  IFLA,
  ROUTE_TYPE,
  RT_TABLE,
  RTA,
  RTM,
  RTM_F
} from "../../../src/ffi/linux/rtnetlinkLayout.ts"
import { ChangeFilter } from "../../../src/layers/network/ChangeFilter.ts"
import { TABLES } from "../../../src/model/policyRouting.ts"

const TUN = "tun-firezone"
const TUN_INDEX = 9
const ETH_INDEX = 2
const UP = IFF.UP | IFF.RUNNING | IFF.LOWER_UP

const attribute = (type: number, value: ReadonlyArray<number>): ReadonlyArray<number> => {
  const padding = new Array<number>((4 - value.length % 4) % 4).fill(0)
  return [4 + value.length, 0, type, 0, ...value, ...padding]
}
const text = (name: string): ReadonlyArray<number> => [...Buffer.from(name), 0]
const message = (type: number, ...parts: ReadonlyArray<ReadonlyArray<number>>): Envelope => ({
  type,
  flags: 0,
  sequence: 0,
  body: Uint8Array.from(parts.flat())
})

const link = (type: number, index: number, name: string, flags: number, family = AF_UNSPEC): Envelope =>
  message(
    type,
    [family, 0, 0, 0, ...u32Bytes(index), ...u32Bytes(flags), 0, 0, 0, 0],
    attribute(IFLA.IFNAME, text(name))
  )
const address = (type: number, index: number, bytes: ReadonlyArray<number>, flags = 0x80): Envelope =>
  message(
    type,
    [bytes.length === 4 ? AF_INET : AF_INET6, 24, flags, 0, ...u32Bytes(index)],
    attribute(IFA.ADDRESS, bytes),
    attribute(IFA.FLAGS, [...u32Bytes(flags)])
  )
const route = (
  type: number,
  { flags = 0, index = ETH_INDEX, kind = ROUTE_TYPE.UNICAST, table = RT_TABLE.MAIN }: {
    readonly table?: number
    readonly kind?: number
    readonly flags?: number
    readonly index?: number | undefined
  }
): Envelope =>
  message(
    type,
    [AF_INET, 24, 0, 0, 0, 2, 0, kind, ...u32Bytes(flags)],
    attribute(RTA.TABLE, [...u32Bytes(table)]),
    attribute(RTA.DST, [192, 0, 2, 0]),
    attribute(RTA.OIF, [...u32Bytes(index)])
  )
const rule = (type: number, table: number): Envelope =>
  message(type, [AF_INET, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], attribute(FRA.TABLE, [...u32Bytes(table)]))

const ETH_ADDRESS = [192, 0, 2, 2]
let filter: ChangeFilter
const tagOf = (envelope: Envelope): string | undefined => filter.handle(envelope)?._tag

beforeEach(() => {
  filter = new ChangeFilter(TUN)
  filter.reset(
    [
      { family: AF_UNSPEC, index: ETH_INDEX, flags: UP, name: "eth" },
      { family: AF_UNSPEC, index: TUN_INDEX, flags: UP, name: TUN }
    ],
    [{
      family: AF_INET,
      index: ETH_INDEX,
      prefixLength: 24,
      flags: 0x80,
      scope: 0,
      address: Uint8Array.from(ETH_ADDRESS)
    }]
  )
})

describe("ChangeFilter", () => {
  it("reports a link whose state is not what it was, and then not again", () => {
    assert.isUndefined(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", UP | 0x1000))) // multicast, say
    const noCarrier = link(RTM.NEWLINK, ETH_INDEX, "eth", IFF.UP)
    assert.deepStrictEqual(filter.handle(noCarrier), { _tag: "Link", interfaceIndex: ETH_INDEX })
    assert.isUndefined(tagOf(noCarrier))
    assert.strictEqual(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", 0)), "Link")
    assert.strictEqual(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", UP)), "Link")
    assert.strictEqual(tagOf(link(RTM.NEWLINK, 3, "wifi", 0)), "Link")
    assert.strictEqual(tagOf(link(RTM.DELLINK, 3, "wifi", 0)), "Link")
    assert.strictEqual(tagOf(link(RTM.NEWLINK, 3, "wifi", 0)), "Link") // another one
  })

  it("takes no notice of what a bridge says of its ports", () => {
    assert.isUndefined(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", 0, 7)))
    assert.isUndefined(tagOf(link(RTM.DELLINK, ETH_INDEX, "eth", 0, 7)))
    assert.isUndefined(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", UP)))
  })

  it("reports addresses that come, go or become usable, and none whose lifetime was renewed", () => {
    assert.isUndefined(tagOf(address(RTM.NEWADDR, ETH_INDEX, ETH_ADDRESS)))
    const v6 = [0x20, 1, 0xd, 0xb8, ...new Array<number>(11).fill(0), 2]
    assert.strictEqual(tagOf(address(RTM.NEWADDR, ETH_INDEX, v6, 0xc0)), "Address") // tentative
    assert.strictEqual(tagOf(address(RTM.NEWADDR, ETH_INDEX, v6, 0x80)), "Address")
    assert.isUndefined(tagOf(address(RTM.NEWADDR, ETH_INDEX, v6, 0x80)))
    assert.strictEqual(tagOf(address(RTM.DELADDR, ETH_INDEX, ETH_ADDRESS)), "Address")
    assert.strictEqual(tagOf(address(RTM.NEWADDR, ETH_INDEX, ETH_ADDRESS)), "Address")
    assert.strictEqual(tagOf(address(RTM.NEWADDR, 3, ETH_ADDRESS)), "Address") // the same on another link
  })

  it("reports routes of the tables that others use", () => {
    for (const type of [RTM.NEWROUTE, RTM.DELROUTE]) {
      assert.deepStrictEqual(filter.handle(route(type, {})), { _tag: "Route", interfaceIndex: ETH_INDEX })
      assert.strictEqual(tagOf(route(type, { table: 1000 })), "Route")
      assert.strictEqual(tagOf(route(type, { table: RT_TABLE.LOCAL, kind: ROUTE_TYPE.LOCAL })), "Route")
      assert.strictEqual(tagOf(route(type, { kind: ROUTE_TYPE.MULTICAST })), "Route")
      for (const { table } of Object.values(TABLES)) assert.isUndefined(tagOf(route(type, { table })))
      assert.isUndefined(tagOf(route(type, { table: RT_TABLE.LOCAL, kind: ROUTE_TYPE.BROADCAST })))
      assert.isUndefined(tagOf(route(type, { table: RT_TABLE.LOCAL, kind: ROUTE_TYPE.MULTICAST })))
      assert.isUndefined(tagOf(route(type, { flags: RTM_F.CLONED })))
    }
  })

  it("reports rules, except those that ask our tables", () => {
    for (const type of [RTM.NEWRULE, RTM.DELRULE]) {
      assert.deepStrictEqual(filter.handle(rule(type, 5)), { _tag: "Rule" })
      for (const { table } of Object.values(TABLES)) assert.isUndefined(tagOf(rule(type, table)))
    }
  })

  it("says nothing of our own tunnel, whatever its index", () => {
    for (const index of [TUN_INDEX, 12]) {
      assert.isUndefined(tagOf(link(RTM.NEWLINK, index, TUN, 0)))
      assert.isUndefined(tagOf(link(RTM.NEWLINK, index, TUN, UP)))
      assert.isUndefined(tagOf(address(RTM.NEWADDR, index, [100, 64, 0, 5])))
      assert.isUndefined(tagOf(route(RTM.NEWROUTE, { index })))
      assert.isUndefined(tagOf(address(RTM.DELADDR, index, [100, 64, 0, 5])))
      assert.isUndefined(tagOf(link(RTM.DELLINK, index, TUN, 0)))
    }
    // The number belongs to whoever has it next.
    assert.strictEqual(tagOf(address(RTM.NEWADDR, TUN_INDEX, [10, 0, 0, 1])), "Address")
  })

  it("tells what our tunnel may have lost, and only that", () => {
    const isLoss = (envelope: Envelope): boolean => {
      filter.handle(envelope)
      return filter.isTunnelLoss(envelope)
    }
    assert.isTrue(isLoss(link(RTM.NEWLINK, TUN_INDEX, TUN, 0)))
    assert.isTrue(isLoss(address(RTM.DELADDR, TUN_INDEX, [100, 64, 0, 5])))
    for (const { table } of Object.values(TABLES)) {
      assert.isTrue(isLoss(route(RTM.DELROUTE, { table, index: TUN_INDEX })))
      assert.isTrue(isLoss(rule(RTM.DELRULE, table)))
      assert.isFalse(isLoss(route(RTM.NEWROUTE, { table, index: TUN_INDEX })))
      assert.isFalse(isLoss(rule(RTM.NEWRULE, table)))
    }
    assert.isFalse(isLoss(link(RTM.NEWLINK, TUN_INDEX, TUN, UP)))
    assert.isFalse(isLoss(address(RTM.NEWADDR, TUN_INDEX, [100, 64, 0, 5])))
    assert.isFalse(isLoss(link(RTM.NEWLINK, ETH_INDEX, "eth", 0)))
    assert.isFalse(isLoss(address(RTM.DELADDR, ETH_INDEX, ETH_ADDRESS)))
    assert.isFalse(isLoss(route(RTM.DELROUTE, {})))
    assert.isFalse(isLoss(rule(RTM.DELRULE, 5)))
    // Nothing is ours once the interface has gone.
    assert.isFalse(isLoss(link(RTM.DELLINK, TUN_INDEX, TUN, 0)))
    assert.isFalse(isLoss(address(RTM.DELADDR, TUN_INDEX, [100, 64, 0, 5])))
  })

  it("notices that the tunnel's interface was renamed", () => {
    assert.strictEqual(tagOf(link(RTM.NEWLINK, TUN_INDEX, "stolen", UP | IFF.LOOPBACK)), undefined)
    assert.strictEqual(tagOf(route(RTM.NEWROUTE, { index: TUN_INDEX })), "Route")
  })

  it("starts again from the state that it is given", () => {
    filter.reset([{ family: AF_UNSPEC, index: ETH_INDEX, flags: 0, name: "eth" }], [])
    assert.isUndefined(tagOf(link(RTM.NEWLINK, ETH_INDEX, "eth", 0)))
    assert.strictEqual(tagOf(address(RTM.NEWADDR, ETH_INDEX, ETH_ADDRESS)), "Address")
    assert.strictEqual(tagOf(route(RTM.NEWROUTE, { index: TUN_INDEX })), "Route")
  })

  it("forgets rather than grows, and then reports once too often", () => {
    for (let i = 0; i < 40_000; i++) filter.handle(address(RTM.NEWADDR, 3, [10, 1, i >> 8, i & 255]))
    assert.strictEqual(tagOf(address(RTM.NEWADDR, ETH_INDEX, ETH_ADDRESS)), "Address")
  })

  it("survives any bytes of any type", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.constantFrom(...Object.values(RTM), 0, 99),
        FastCheck.uint8Array({ maxLength: 64 }),
        (type, body) => {
          filter.handle({ type, flags: 0, sequence: 0, body })
          filter.isTunnelLoss({ type, flags: 0, sequence: 0, body })
          for (const envelope of readMessages(body, body.length)) filter.handle(envelope)
        }
      ),
      { numRuns: 2000 }
    )
  })
})
