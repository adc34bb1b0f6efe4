/** Requests to the kernel, in a namespace of this file's own: host spec sections 8.6 and 18, item 13. */
import * as Either from "effect/Either"
import { assert, beforeAll, it } from "vitest"
import { lazily, memoryAddress } from "../../../src/ffi/linux/libc.ts"
import { NetlinkNotifications, NetlinkRequests } from "../../../src/ffi/linux/netlink.ts"
import { decodeAddress, decodeLink, decodeRoute, decodeRule } from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import * as encode from "../../../src/ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, AF_UNSPEC, RTM, RTMGRP } from "../../../src/ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../../src/ffi/SyscallError.ts"
import { SOCKET_MARK, TABLES } from "../../../src/model/policyRouting.ts"
import { ip as address, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { addLink, ipFirst } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

describeWith({ root: true, programs: ["ip"] }, "netlink", () => {
  let netlink: NetlinkRequests
  let index = 0
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    netlink = Either.getOrThrow(NetlinkRequests.open())
    addLink("eth")
    index = ipFirst("link show dev eth").ifindex ?? 0
  })

  /** `ok`, or the kernel's word for what is wrong. */
  const change = (request: Uint8Array): string =>
    Either.match(netlink.acknowledge(request, "test"), { onLeft: ({ errno }) => errno, onRight: () => "ok" })

  it("accepts each request once, and says so of the second (host 18.13)", () => {
    for (const family of [AF_INET, AF_INET6] as const) {
      const bytes = ipToBytes(address(family === AF_INET ? "100.64.0.5" : "fd00:2021:1111::5"))
      const network = ipToBytes(address(family === AF_INET ? "10.9.0.0" : "fd00:9::"))
      const rule = { family, mark: SOCKET_MARK, ...TABLES.user }
      const route = { destination: network, prefixLength: 16, table: TABLES.user.table, index }
      assert.strictEqual(change(encode.addAddress(index, bytes, bytes.length * 8)), "ok")
      assert.strictEqual(change(encode.addAddress(index, bytes, bytes.length * 8)), "EEXIST")
      assert.strictEqual(change(encode.addInvertedMarkRule(rule)), "ok")
      assert.strictEqual(change(encode.addInvertedMarkRule(rule)), "EEXIST")
      assert.strictEqual(change(encode.addDeviceRoute(route)), "ok")
      assert.strictEqual(change(encode.addDeviceRoute(route)), "EEXIST")
      const [added] = Either.getOrThrow(
        netlink.dump(encode.dumpRoutes(family, TABLES.user.table), "routes", decodeRoute)
      ).filter(({ table }) => table === TABLES.user.table)
      assert.isDefined(added)
      assert.strictEqual(change(encode.deleteRoute(added)), "ok")
      assert.strictEqual(change(encode.deleteRoute(added)), "ESRCH")
      const ours = Either.getOrThrow(netlink.dump(encode.dumpRules(family), "rules", decodeRule)).filter(
        ({ table }) => table === TABLES.user.table
      )
      assert.lengthOf(ours, 1)
      const [shown] = ours
      assert.isDefined(shown)
      assert.deepInclude({ ...shown }, { priority: 100, mark: SOCKET_MARK, flags: 2, protocol: 2 })
      assert.strictEqual(change(encode.deleteRule(shown)), "ok")
      assert.strictEqual(change(encode.deleteRule(shown)), "ENOENT")
      assert.strictEqual(change(encode.deleteAddress(index, bytes, bytes.length * 8)), "ok")
      assert.strictEqual(change(encode.deleteAddress(index, bytes, bytes.length * 8)), "EADDRNOTAVAIL")
    }
    for (
      const request of [
        encode.setAddressGenerationNone(index),
        encode.setMtu(index, 1280),
        encode.setUp(index),
        encode.setTxQueueLength(index, 10_000)
      ]
    ) assert.strictEqual(change(request), "ok")
    const link = Either.getOrThrow(netlink.ask(encode.getLinkByName("eth"), "link", decodeLink))
    assert.deepInclude({ ...link }, { index, mtu: 1280, txQueueLength: 10_000 })
  })

  it("gives errors with the call, the name and the kernel's own words", () => {
    const failure: SyscallError | undefined = Either.getOrUndefined(
      Either.flip(netlink.acknowledge(encode.setMtu(index, 10), "set MTU"))
    )
    assert.deepInclude({ ...failure }, { syscall: "set MTU", code: 22, errno: "EINVAL" })
    assert.match(failure?.hint ?? "", /mtu/)
    const missing = Either.getOrThrow(Either.flip(netlink.ask(encode.getLinkByName("none"), "find none", decodeLink)))
    assert.strictEqual(missing.errno, "ENODEV")
  })

  it("filters dumps, and asks again on the same socket after one", () => {
    ip("addr add 192.0.2.2/24 dev eth")
    const addresses = Either.getOrThrow(
      netlink.dump(encode.dumpAddresses(AF_UNSPEC, index), "addresses", decodeAddress)
    )
    assert.deepStrictEqual(addresses.map(({ index, prefixLength }) => [index, prefixLength]), [[index, 24]])
    const routes = Either.getOrThrow(netlink.dump(encode.dumpRoutes(AF_INET, 254), "routes", decodeRoute))
    assert.deepStrictEqual(routes.map(({ table, prefixLength }) => [table, prefixLength]), [[254, 24]])
    assert.isAtLeast(Either.getOrThrow(netlink.dump(encode.dumpLinks(), "links", decodeLink)).length, 3)
  })

  it("tells members of a group of changes, and nobody else's messages", () => {
    const notifications = Either.getOrThrow(
      NetlinkNotifications.open({ groups: RTMGRP.IPV4_ROUTE, memberships: [], receiveBuffer: 1 << 16 })
    )
    const seen: Array<number> = []
    const drain = () => notifications.drain(100, ({ type }) => seen.push(type))
    assert.strictEqual(drain(), "drained")
    // Another socket of root may write to ours; the kernel's messages come from port 0.
    const sender = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")()(
      16,
      3,
      0
    )
    const sendto = lazily<
      (fd: number, bytes: number, length: number, flags: number, to: number, size: number) => number
    >(
      "long sendto(int, int64_t, size_t, int, int64_t, uint32_t)"
    )
    const getsockname = lazily<(fd: number, to: number, size: number) => number>(
      "int getsockname(int, int64_t, int64_t)"
    )
    const target = new Uint8Array(16)
    target[12] = 12
    assert.strictEqual(getsockname()(notifications.fd, memoryAddress(target), memoryAddress(target) + 12), 0)
    target.fill(0, 8, 12) // the port alone, no group
    const forged = encode.addDeviceRoute({
      destination: Uint8Array.of(10, 0, 0, 0),
      prefixLength: 8,
      table: 254,
      index
    })
    assert.strictEqual(
      sendto()(sender, memoryAddress(forged), forged.length, 0, memoryAddress(target), 12),
      forged.length
    )
    assert.strictEqual(drain(), "drained")
    assert.deepStrictEqual(seen, [])
    ip("route add 203.0.113.0/24 dev eth")
    assert.strictEqual(drain(), "drained")
    assert.deepStrictEqual(seen, [RTM.NEWROUTE])
    ip("route del 203.0.113.0/24 dev eth")
    notifications.discard()
    assert.strictEqual(drain(), "drained")
    assert.deepStrictEqual(seen, [RTM.NEWROUTE])
    notifications.close()
    assert.notStrictEqual(drain(), "drained")
  })

  it("fails after it was closed, rather than hang", () => {
    const other = Either.getOrThrow(NetlinkRequests.open())
    other.close()
    assert.strictEqual(Either.getOrThrow(Either.flip(other.acknowledge(encode.setUp(index), "set up"))).errno, "EBADF")
  })
})
