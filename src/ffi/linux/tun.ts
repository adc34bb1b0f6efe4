/** TUN devices (linux/if_tun.h): requests, flags and the one structure, `struct ifreq`. */
import { lazily } from "./libc.ts"

export const TUN_PATH = "/dev/net/tun"
/** makedev(10, 200), Documentation/admin-guide/devices.txt. */
export const TUN_DEVICE_NUMBER = 10 << 8 | 200

export const TUNSETIFF = 0x400454ca
export const TUNSETOFFLOAD = 0x400454d0

export const IFF_TUN = 0x0001
export const IFF_NO_PI = 0x1000
export const IFF_VNET_HDR = 0x4000

/** Offloads that we accept on reading: checksum, TCP segmentation, UDP segmentation (Linux 6.2). */
export const TUN_F_CSUM = 0x01
export const TUN_F_TSO4 = 0x02
export const TUN_F_TSO6 = 0x04
export const TUN_F_USO4 = 0x20
export const TUN_F_USO6 = 0x40

/** What the client asks for, from everything to nothing; the kernel takes a set whole or not at all. */
export const TUN_OFFLOADS: ReadonlyArray<{ readonly name: string; readonly flags: number }> = [
  { name: "tso,uso", flags: TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6 },
  { name: "tso", flags: TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 },
  { name: "csum", flags: TUN_F_CSUM }
]

/** ioctl(2) with a number as its argument. */
export const ioctlNumber = lazily<(fd: number, request: number, argument: number) => number>(
  "int ioctl(int fd, unsigned long request, long argument)"
)
/** ioctl(2) with a structure, which the kernel may write to. */
export const ioctlBytes = lazily<(fd: number, request: number, argument: Uint8Array) => number>(
  "int ioctl(int fd, unsigned long request, _Inout_ void *argument)"
)

const IFREQ_LENGTH = 40
const IFNAMSIZ = 16

/** `struct ifreq` with a name and flags; `name` is at most 15 bytes. */
export const ifreq = (name: string, flags: number): Uint8Array => {
  const bytes = new Uint8Array(IFREQ_LENGTH)
  new TextEncoder().encodeInto(name, bytes.subarray(0, IFNAMSIZ - 1))
  new Uint16Array(bytes.buffer, 16, 1)[0] = flags
  return bytes
}
