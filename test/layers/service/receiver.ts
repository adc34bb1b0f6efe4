/** A datagram socket with a name, as a service manager has one. */
import * as Either from "effect/Either"
import * as fs from "node:fs"
import { bindSocket, closeSocket, DatagramReader } from "../../../src/ffi/linux/socket.ts"
import { encodeSockaddrUn, openUnixDatagram } from "../../../src/ffi/linux/unixDatagram.ts"

export interface Receiver {
  /** What came since the last call. */
  readonly received: () => ReadonlyArray<string>
  readonly close: () => void
}

export const bindReceiver = (name: string): Receiver => {
  const sockaddr = encodeSockaddrUn(name)
  if (sockaddr === undefined) throw new Error(`${name} is no address`)
  const fd = Either.getOrThrow(openUnixDatagram())
  Either.getOrThrow(bindSocket(fd, sockaddr))
  const reader = new DatagramReader(4096)
  return {
    received: () => {
      const datagrams: Array<string> = []
      while (true) {
        const length = Either.getOrThrow(reader.receive(fd))
        if (length === undefined) return datagrams
        datagrams.push(new TextDecoder().decode(reader.bytes.subarray(0, length)))
      }
    },
    close: () => {
      closeSocket(fd)
      if (!name.startsWith("@")) fs.rmSync(name)
    }
  }
}
