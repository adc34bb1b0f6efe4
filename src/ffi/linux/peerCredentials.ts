/** Who is at the other end of a Unix socket (unix(7), socket(7)). */
import * as Either from "effect/Either"
import type { SyscallError } from "../SyscallError.ts"
import { lastError, lazily, memoryAddress } from "./libc.ts"
import { SOL_SOCKET } from "./socket.ts"

const SO_PEERCRED = 17
/** `struct ucred`: pid, uid, gid, 32 bits each. */
const UCRED = 12

const getsockopt = lazily<(fd: number, level: number, option: number, value: number, length: number) => number>(
  "int getsockopt(int, int, int, int64_t, int64_t)"
)

export interface PeerCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** As they were when the peer connected. A user whom our namespace does not know is 65534. */
export const peerCredentials = (fd: number): Either.Either<PeerCredentials, SyscallError> => {
  const bytes = new Uint8Array(UCRED + 4)
  const view = new DataView(bytes.buffer)
  view.setUint32(UCRED, UCRED, true)
  const address = memoryAddress(bytes)
  return getsockopt()(fd, SOL_SOCKET, SO_PEERCRED, address, address + UCRED) < 0
    ? Either.left(lastError("getsockopt(SO_PEERCRED)"))
    : Either.right({ pid: view.getInt32(0, true), uid: view.getUint32(4, true), gid: view.getUint32(8, true) })
}
