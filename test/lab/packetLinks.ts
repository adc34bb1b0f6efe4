/**
 * Ways into and out of a host's network for whole IP packets, without code of ours in between: packet sockets that hand
 * packets to a device, and plain TUN devices, for which the kernel itself cuts trains and completes checksums.
 */
import * as fs from "node:fs"
import { O_CLOEXEC, O_NONBLOCK, O_RDWR, open, read } from "../../src/ffi/linux/file.ts"
import { close, ERRNO, errno, lastError, lazily, memoryAddress } from "../../src/ffi/linux/libc.ts"
import { IFF_NO_PI, IFF_TUN, ifreq, ioctlBytes, TUN_PATH, TUNSETIFF } from "../../src/ffi/linux/tun.ts"
import { insideNamespace, run } from "../support/netns.ts"

const AF_PACKET = 17
const SOCK_RAW = 3
const SOL_PACKET = 263
const PACKET_VNET_HDR = 15
const SOCKADDR_LL = 20
const ETHERTYPE = { 4: 0x0800, 6: 0x86dd } as const
const VIRTIO_NET_HEADER = 10

const socket = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const setsockopt = lazily<(fd: number, level: number, option: number, value: Uint8Array, length: number) => number>(
  "int setsockopt(int, int, int, const uint8_t *, uint32_t)"
)
const sendto = lazily<
  (fd: number, bytes: Uint8Array, length: number, flags: number, to: Uint8Array, toLength: number) => number
>("long sendto(int, const uint8_t *, size_t, int, const uint8_t *, uint32_t)")

/** What the kernel is told of a packet: a train that is still to be cut, or a checksum to be completed. */
export interface Frame {
  readonly bytes: Uint8Array
  /** `struct virtio_net_hdr`; zeros unless given. */
  readonly header?: Uint8Array | undefined
}

export interface Injector {
  /** Hands the packet to the device; fails if the kernel does not take it. */
  readonly send: (frame: Frame) => void
  readonly close: () => void
}

export interface PlainTun {
  readonly name: string
  /** What was routed to the device since the last call. */
  readonly received: () => ReadonlyArray<Uint8Array>
  readonly close: () => void
}

/** In the network namespace that `namespace` stands for. */
export const openInjector = (namespace: string, device: string): Injector =>
  insideNamespace(namespace, () => {
    const [link] = JSON.parse(run("ip", "-j", "link", "show", device)) as ReadonlyArray<{ ifindex: number }>
    const fd = socket()(AF_PACKET, SOCK_RAW, 0)
    if (fd < 0) throw lastError("socket(AF_PACKET)")
    const on = new Uint8Array(Int32Array.of(1).buffer)
    if (setsockopt()(fd, SOL_PACKET, PACKET_VNET_HDR, on, 4) !== 0) throw lastError("PACKET_VNET_HDR")
    const address = new Uint8Array(SOCKADDR_LL)
    const view = new DataView(address.buffer)
    view.setUint16(0, AF_PACKET, true)
    view.setInt32(4, link?.ifindex ?? 0, true)
    return {
      send: ({ bytes, header }) => {
        const version = (bytes[0] ?? 0) >> 4
        view.setUint16(2, ETHERTYPE[version === 6 ? 6 : 4])
        const message = new Uint8Array(VIRTIO_NET_HEADER + bytes.length)
        if (header !== undefined) message.set(header)
        message.set(bytes, VIRTIO_NET_HEADER)
        if (sendto()(fd, message, message.length, 0, address, SOCKADDR_LL) !== message.length) {
          throw lastError(`send ${bytes.length} bytes to ${device}`)
        }
      },
      close: () => void close()(fd)
    }
  })

/** A device without offloads in that namespace, which is up; it has no addresses. */
export const openPlainTun = (namespace: string, name: string): PlainTun =>
  insideNamespace(namespace, () => {
    const fd = open()(TUN_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK, 0)
    if (fd < 0) throw lastError(`open ${TUN_PATH}`)
    if (ioctlBytes()(fd, TUNSETIFF, ifreq(name, IFF_TUN | IFF_NO_PI)) !== 0) throw lastError("TUNSETIFF")
    // Nothing that the kernel says by itself, such as router solicitations, gets among the packets.
    fs.writeFileSync(`/proc/sys/net/ipv6/conf/${name}/addr_gen_mode`, "1")
    run("ip", "link", "set", name, "txqueuelen", "10000", "up")
    const buffer = new Uint8Array(65_536)
    const address = memoryAddress(buffer)
    return {
      name,
      received: () => {
        const packets: Array<Uint8Array> = []
        while (true) {
          const length = read()(fd, address, buffer.length)
          if (length > 0) packets.push(buffer.slice(0, length))
          else if (length < 0 && errno() === ERRNO.EAGAIN) return packets
          else throw lastError(`read ${name}`)
        }
      },
      close: () => void close()(fd)
    }
  })
