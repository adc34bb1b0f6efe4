import { assert, beforeAll, it } from "vitest"
import { O_RDWR, open } from "../../../src/ffi/linux/file.ts"
import { close, errno, errnoName } from "../../../src/ffi/linux/libc.ts"
import * as tun from "../../../src/ffi/linux/tun.ts"
import { enterPrivateNetworkNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

it("struct ifreq: the name at 0, the flags at 16 (linux/if.h)", () => {
  const bytes = tun.ifreq("tun-firezone", tun.IFF_TUN | tun.IFF_NO_PI | tun.IFF_VNET_HDR)
  assert.strictEqual(bytes.length, 40)
  assert.strictEqual(Buffer.from(bytes.subarray(0, 16)).toString("latin1"), "tun-firezone\0\0\0\0")
  assert.deepStrictEqual([...bytes.subarray(16, 18)], [0x01, 0x50])
  assert.isTrue(bytes.subarray(18).every((byte) => byte === 0))
  // What is too long never reaches the terminating zero.
  assert.strictEqual(tun.ifreq("x".repeat(40), 0)[15], 0)
})

it("an ioctl on no device", () => {
  assert.strictEqual(tun.ioctlBytes()(-1, tun.TUNSETIFF, tun.ifreq("x", tun.IFF_TUN)), -1)
  assert.strictEqual(errnoName(errno()), "EBADF")
  const zero = open()("/dev/zero", O_RDWR, 0)
  assert.strictEqual(tun.ioctlNumber()(zero, tun.TUNSETOFFLOAD, 0), -1)
  assert.strictEqual(errnoName(errno()), "ENOTTY")
  close()(zero)
})

describeWith({ root: true }, "TUN ioctls", () => {
  beforeAll(enterPrivateNetworkNamespace)

  const flags = tun.IFF_TUN | tun.IFF_NO_PI | tun.IFF_VNET_HDR
  const attach = (fd: number): string =>
    tun.ioctlBytes()(fd, tun.TUNSETIFF, tun.ifreq("tun-x", flags)) === 0 ? "ok" : errnoName(errno())

  it("a second attach is refused while the first one lives (host 18.14)", () => {
    const first = open()(tun.TUN_PATH, O_RDWR, 0)
    const second = open()(tun.TUN_PATH, O_RDWR, 0)
    assert.strictEqual(attach(first), "ok")
    assert.strictEqual(attach(second), "EBUSY")
    assert.strictEqual(attach(first), "EEXIST") // it has one already
    close()(first)
    assert.strictEqual(attach(second), "ok")
    close()(second)
  })

  it("offloads are granted as a set or not at all", () => {
    const fd = open()(tun.TUN_PATH, O_RDWR, 0)
    const offload = (set: number): string =>
      tun.ioctlNumber()(fd, tun.TUNSETOFFLOAD, set) === 0 ? "ok" : errnoName(errno())
    assert.strictEqual(offload(0), "EBADFD") // no interface yet
    assert.strictEqual(attach(fd), "ok")
    assert.strictEqual(offload(tun.TUN_F_CSUM | tun.TUN_F_TSO4 | tun.TUN_F_TSO6), "ok")
    assert.strictEqual(offload(tun.TUN_F_CSUM | 0x4000), "EINVAL")
    assert.strictEqual(offload(0), "ok")
    close()(fd)
  })
})
