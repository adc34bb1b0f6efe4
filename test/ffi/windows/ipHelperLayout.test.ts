/** Offsets are those of host spec section 11.3, written out: the constants under test must not check themselves. */
import * as FastCheck from "fast-check"
import { execFileSync } from "node:child_process"
import { assert, describe, it } from "vitest"
import {
  AF_INET,
  AF_INET6,
  decodeAdapters,
  decodeForwardRow,
  decodeSockaddrInet,
  encodeSockaddrInet,
  IP_ADAPTER_ADDRESSES,
  MIB_IPFORWARD_ROW2,
  SOCKADDR_INET
} from "../../../src/ffi/windows/ipHelperLayout.ts"
import { describeWith } from "../../support/requires.ts"

const v4 = Uint8Array.of(192, 0, 2, 7)
const v6 = Uint8Array.from({ length: 16 }, (_, i) => 0x20 + i)

describe("SOCKADDR_INET (host 18.27)", () => {
  it("has family, port and address at their places", () => {
    assert.deepStrictEqual([...encodeSockaddrInet(v4)], [2, 0, 0, 0, ...v4, ...Array.from({ length: 20 }, () => 0)])
    assert.deepStrictEqual(
      [...encodeSockaddrInet(v6)],
      [23, 0, 0, 0, 0, 0, 0, 0, ...v6, 0, 0, 0, 0]
    )
  })

  it("reads what it writes, at any offset", () => {
    for (const address of [v4, v6]) {
      const bytes = new Uint8Array(60).fill(0xee)
      bytes.set(encodeSockaddrInet(address), 31)
      assert.deepStrictEqual(decodeSockaddrInet(bytes, 31, address === v4 ? AF_INET6 : AF_INET), address)
    }
  })

  it("takes an unspecified family for the destination's, and no other family at all", () => {
    const bytes = encodeSockaddrInet(v6)
    bytes[0] = 0
    assert.deepStrictEqual(decodeSockaddrInet(bytes, 0, AF_INET6), v6)
    assert.deepStrictEqual(decodeSockaddrInet(bytes, 0, AF_INET), Uint8Array.of(0, 0, 0, 0))
    bytes[0] = 10 // IPv6 of Linux
    assert.isUndefined(decodeSockaddrInet(bytes, 0, AF_INET6))
  })
})

describe("MIB_IPFORWARD_ROW2 (host 18.27)", () => {
  it("is read at the offsets of the header", () => {
    const row = new Uint8Array(104)
    const view = new DataView(row.buffer)
    view.setUint32(8, 17, true)
    row[40] = 24
    view.setUint16(44, 2, true)
    row.set(v4, 48)
    view.setUint32(84, 4242, true)
    assert.deepStrictEqual(decodeForwardRow(row, AF_INET), {
      interfaceIndex: 17,
      prefixLength: 24,
      nextHop: v4,
      metric: 4242
    })
    row.set(v6, 52)
    view.setUint16(44, 23, true)
    assert.deepStrictEqual(decodeForwardRow(row, AF_INET6).nextHop, v6)
  })

  it("has no next hop on the link", () => {
    const row = new Uint8Array(104)
    for (const family of [0, 2, 23]) {
      row[44] = family
      assert.isUndefined(decodeForwardRow(row, AF_INET).nextHop)
    }
  })
})

const BASE = 0x7ff6_1234_5000
/** A list of one adapter at 0 and one at 600, the first one's name at 500. */
const list = () => {
  const bytes = new Uint8Array(1100)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 448, true)
  view.setUint32(4, 12, true)
  view.setBigUint64(8, BigInt(BASE + 600), true)
  view.setBigUint64(72, BigInt(BASE + 500), true)
  bytes.set(new Uint8Array(Uint16Array.from("WLAN é", (character) => character.charCodeAt(0)).buffer), 500)
  view.setUint32(104, 1, true)
  view.setUint32(108, 13, true)
  view.setUint32(216, 25, true)
  view.setUint32(220, 35, true)
  view.setBigUint64(224, 0x1234_5678_9abc_def0n, true)
  view.setUint32(600 + 104, 2, true)
  return { bytes, view }
}

describe("IP_ADAPTER_ADDRESSES (host 18.27)", () => {
  it("is read at the offsets of the header, following absolute pointers", () => {
    const { bytes } = list()
    assert.deepStrictEqual(decodeAdapters(bytes, BASE), [
      {
        luid: 0x1234_5678_9abc_def0n,
        ifIndex: 12,
        ipv6IfIndex: 13,
        friendlyName: "WLAN é",
        isUp: true,
        ipv4Metric: 25,
        ipv6Metric: 35
      },
      { luid: 0n, ifIndex: 0, ipv6IfIndex: 0, friendlyName: undefined, isUp: false, ipv4Metric: 0, ipv6Metric: 0 }
    ])
  })

  it("gives no name for a null pointer, invalid UTF-16, a text without end or a pointer to elsewhere", () => {
    const nameWith = (change: (view: DataView, bytes: Uint8Array) => void): string | undefined => {
      const { bytes, view } = list()
      change(view, bytes)
      return decodeAdapters(bytes, BASE)[0]?.friendlyName
    }
    assert.strictEqual(nameWith(() => undefined), "WLAN é")
    assert.isUndefined(nameWith((view) => view.setBigUint64(72, 0n, true)))
    assert.isUndefined(nameWith((view) => view.setUint16(504, 0xd800, true)))
    assert.isUndefined(nameWith((_, bytes) => bytes.fill(0x41, 500)))
    assert.isUndefined(nameWith((view) => view.setBigUint64(72, BigInt(BASE + 1100), true)))
    assert.isUndefined(nameWith((view) => view.setBigUint64(72, BigInt(BASE - 2), true)))
  })

  it("ends a list that bites its tail, or leaves the buffer", () => {
    const { bytes, view } = list()
    view.setBigUint64(608, BigInt(BASE), true)
    assert.lengthOf(decodeAdapters(bytes, BASE), 2)
    view.setBigUint64(8, BigInt(BASE + 1100 - 447), true)
    assert.lengthOf(decodeAdapters(bytes, BASE), 1)
    assert.deepStrictEqual(decodeAdapters(new Uint8Array(447), BASE), [])
  })

  it("returns whatever the bytes", () => {
    FastCheck.assert(FastCheck.property(
      FastCheck.uint8Array({ maxLength: 2000, size: "max" }),
      FastCheck.nat(1900),
      FastCheck.nat(1900),
      (bytes, next, name) => {
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
        if (bytes.length >= 80) {
          view.setBigUint64(8, BigInt(BASE + next), true)
          view.setBigUint64(72, BigInt(BASE + name), true)
        }
        assert.isAtMost(decodeAdapters(bytes, BASE).length, bytes.length / 448)
      }
    ))
  })
})

const COMPILER = "x86_64-w64-mingw32-gcc"
describeWith({ programs: [COMPILER] }, "the layouts of IP Helper", () => {
  it(`agrees with the headers of ${COMPILER}`, () => {
    const row = MIB_IPFORWARD_ROW2
    const adapter = IP_ADAPTER_ADDRESSES
    const facts = {
      "sizeof(SOCKADDR_INET)": SOCKADDR_INET.size,
      "offsetof(SOCKADDR_INET, si_family)": SOCKADDR_INET.family,
      "offsetof(SOCKADDR_INET, Ipv4.sin_addr)": SOCKADDR_INET.address4,
      "offsetof(SOCKADDR_INET, Ipv6.sin6_addr)": SOCKADDR_INET.address6,
      "sizeof(MIB_IPFORWARD_ROW2)": row.size,
      "offsetof(MIB_IPFORWARD_ROW2, InterfaceIndex)": row.interfaceIndex,
      "offsetof(MIB_IPFORWARD_ROW2, DestinationPrefix.PrefixLength)": row.prefixLength,
      "offsetof(MIB_IPFORWARD_ROW2, NextHop)": row.nextHop,
      "offsetof(MIB_IPFORWARD_ROW2, Metric)": row.metric,
      "sizeof(IP_ADAPTER_ADDRESSES)": adapter.size,
      "offsetof(IP_ADAPTER_ADDRESSES, IfIndex)": adapter.ifIndex,
      "offsetof(IP_ADAPTER_ADDRESSES, Next)": adapter.next,
      "offsetof(IP_ADAPTER_ADDRESSES, FriendlyName)": adapter.friendlyName,
      "offsetof(IP_ADAPTER_ADDRESSES, OperStatus)": adapter.operStatus,
      "offsetof(IP_ADAPTER_ADDRESSES, Ipv6IfIndex)": adapter.ipv6IfIndex,
      "offsetof(IP_ADAPTER_ADDRESSES, Ipv4Metric)": adapter.ipv4Metric,
      "offsetof(IP_ADAPTER_ADDRESSES, Ipv6Metric)": adapter.ipv6Metric,
      "offsetof(IP_ADAPTER_ADDRESSES, Luid)": adapter.luid,
      "AF_INET": AF_INET,
      "AF_INET6": AF_INET6,
      "IfOperStatusUp": 1,
      "GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST | GAA_FLAG_SKIP_DNS_SERVER": 0x0e
    }
    const compile = (facts: { readonly [expression: string]: number }) =>
      execFileSync(COMPILER, ["-D_WIN32_WINNT=0x0A00", "-Werror", "-fsyntax-only", "-x", "c", "-"], {
        input: `#include <stddef.h>
#include <winsock2.h>
#include <ws2ipdef.h>
#include <iphlpapi.h>
#include <netioapi.h>
ULONG WINAPI (*adapters)(ULONG, ULONG, PVOID, PIP_ADAPTER_ADDRESSES, PULONG) = GetAdaptersAddresses;
NETIO_STATUS WINAPI (*route)(NET_LUID *, NET_IFINDEX, const SOCKADDR_INET *, const SOCKADDR_INET *, ULONG,
                             PMIB_IPFORWARD_ROW2, SOCKADDR_INET *) = GetBestRoute2;
${Object.entries(facts).map(([fact, value]) => `_Static_assert((${fact}) == ${value}, "${fact}");`).join("\n")}
`,
        stdio: ["pipe", "pipe", "pipe"]
      })
    compile(facts)
    assert.throws(() => compile({ "sizeof(SOCKADDR_INET)": 29 })) // it does look
  })
})
