import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { O_CLOEXEC, O_RDWR, open } from "../../ffi/linux/file.ts"
import { close, lastError } from "../../ffi/linux/libc.ts"
import {
  AF_INET,
  AF_INET6,
  closeSocket,
  connectSocket,
  encodeSockaddr,
  getOption,
  IP_MTU,
  IPV6_MTU,
  openSocket,
  setOption,
  SO_MARK,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT
} from "../../ffi/linux/socket.ts"
import {
  IFF_NO_PI,
  IFF_TUN,
  IFF_VNET_HDR,
  ifreq,
  ioctlBytes,
  ioctlNumber,
  TUN_OFFLOADS,
  TUN_PATH,
  TUNSETIFF,
  TUNSETOFFLOAD
} from "../../ffi/linux/tun.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { SOCKET_MARK } from "../../model/policyRouting.ts"
import { familyOf, type IpAddress, ipToBytes } from "../../protocol/wire/address.ts"
import { KernelProbe, type SocketAbilities, type TunRefused } from "../../services/KernelProbe.ts"

/** The kernel puts a number in the place of `%d`. */
const PROBE_NAME = "fzdoctor%d"
/** Any port: nothing is sent. */
const DISCARD_PORT = 9
const SEGMENT = 1316

const probeTun = (): Either.Either<string, TunRefused> => {
  const fd = open()(TUN_PATH, O_RDWR | O_CLOEXEC, 0)
  if (fd < 0) return Either.left({ step: `open ${TUN_PATH}`, cause: lastError("open") })
  try {
    if (ioctlBytes()(fd, TUNSETIFF, ifreq(PROBE_NAME, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)) !== 0) {
      return Either.left({ step: "make a TUN interface", cause: lastError("ioctl(TUNSETIFF)") })
    }
    const granted = TUN_OFFLOADS.find(({ flags }) => ioctlNumber()(fd, TUNSETOFFLOAD, flags) === 0)
    return Either.right(granted?.name ?? "")
  } finally {
    close()(fd)
  }
}

const withUdp = <A>(
  family: typeof AF_INET | typeof AF_INET6,
  use: (fd: number) => Either.Either<A, SyscallError>
): Either.Either<A, SyscallError> =>
  Either.flatMap(openSocket(family, SOCK_DGRAM), (fd) => {
    try {
      return use(fd)
    } finally {
      closeSocket(fd)
    }
  })

const probeSockets = (): Either.Either<SocketAbilities, SyscallError> =>
  withUdp(AF_INET, (fd) =>
    Either.right({
      mark: setOption(fd, SOL_SOCKET, SO_MARK, SOCKET_MARK, "SO_MARK"),
      segmentation: Either.isRight(setOption(fd, SOL_UDP, UDP_SEGMENT, SEGMENT, "UDP_SEGMENT")),
      coalescing: Either.isRight(setOption(fd, SOL_UDP, UDP_GRO, 1, "UDP_GRO"))
    }))

const pathMtu = (destination: IpAddress): Either.Either<number, SyscallError> => {
  const v4 = familyOf(destination) === 4
  return withUdp(v4 ? AF_INET : AF_INET6, (fd) => {
    // Where it may be, so that the way is the client's; the answer without is still worth something.
    setOption(fd, SOL_SOCKET, SO_MARK, SOCKET_MARK, "SO_MARK")
    const connected = connectSocket(fd, encodeSockaddr(ipToBytes(destination), DISCARD_PORT))
    if (Either.isLeft(connected)) return Either.left(connected.left)
    return v4 ? getOption(fd, SOL_IP, IP_MTU, "IP_MTU") : getOption(fd, SOL_IPV6, IPV6_MTU, "IPV6_MTU")
  })
}

/** In the network namespace of the calling thread. */
export const layer: Layer.Layer<KernelProbe> = Layer.succeed(
  KernelProbe,
  KernelProbe.of({
    tun: Effect.sync(probeTun),
    sockets: Effect.suspend(probeSockets),
    pathMtu: (destination) => Effect.suspend(() => pathMtu(destination))
  })
)
