/** Which process is at the other end of a Unix socket (unix(7), pidfd_open(2)). */
import * as Either from "effect/Either"
import * as fs from "node:fs"
import type { SyscallError } from "../SyscallError.ts"
import { close, ERRNO, errno, lastError, lazily, memoryAddress } from "./libc.ts"
import { peerCredentials } from "./peerCredentials.ts"
import { SOL_SOCKET } from "./socket.ts"

/** Linux 6.5. */
const SO_PEERPIDFD = 77

const getsockopt = lazily<(fd: number, level: number, option: number, value: number, length: number) => number>(
  "int getsockopt(int, int, int, int64_t, int64_t)"
)

export interface PeerProcess {
  readonly pid: number
  /**
   * Whether that is still the number of the process that connected; what was found out by the number before counts then.
   * Always `true` on Linux before 6.5, which cannot tell.
   */
  readonly isStillThat: () => boolean
  readonly close: () => void
}

/** The process that connected, held so that its number cannot become another's unnoticed. */
export const peerProcess = (fd: number): Either.Either<PeerProcess, SyscallError> => {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  view.setUint32(4, 4, true)
  const address = memoryAddress(bytes)
  if (getsockopt()(fd, SOL_SOCKET, SO_PEERPIDFD, address, address + 4) < 0) {
    if (errno() !== ERRNO.ENOPROTOOPT) return Either.left(lastError("getsockopt(SO_PEERPIDFD)"))
    return Either.map(peerCredentials(fd), ({ pid }) => ({ pid, isStillThat: () => true, close: () => undefined }))
  }
  const pidfd = view.getInt32(0, true)
  const pid = pidOf(pidfd)
  return Either.right({ pid, isStillThat: () => pid > 0 && pidOf(pidfd) === pid, close: () => void close()(pidfd) })
}

/** -1 once it has ended. */
const pidOf = (pidfd: number): number => {
  try {
    return Number(/^Pid:\s+(-?\d+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${pidfd}`, "utf8"))?.[1] ?? -1)
  } catch {
    return -1
  }
}
