/** Whether it is the GUI that has connected, and not another program of the same user (host spec section 7.1). */
import * as Either from "effect/Either"
import * as fs from "node:fs"
import type * as net from "node:net"
import { peerProcess } from "../../ffi/linux/peerProcess.ts"
import { descriptorOf } from "./unixSocket.ts"

/**
 * Why whoever has connected is not the program at `guiPath`; `undefined` if it is. The file counts besides its name: in a
 * mount namespace of its own, any program may have that name.
 */
export const refusalOf = (socket: net.Socket, guiPath: string): string | undefined => {
  const fd = descriptorOf(socket)
  if (fd === undefined) return "it has gone"
  const found = peerProcess(fd)
  if (Either.isLeft(found)) return found.left.message
  const peer = found.right
  try {
    const link = `/proc/${peer.pid}/exe`
    const name = fs.readlinkSync(link)
    if (name !== guiPath) return `it runs ${name}, which is not ${guiPath}`
    const file = fs.statSync(link, { bigint: true })
    const gui = fs.statSync(guiPath, { bigint: true })
    if (file.dev !== gui.dev || file.ino !== gui.ino) return `it runs another ${guiPath} than there is`
    return peer.isStillThat() ? undefined : "it has gone"
  } catch (cause) {
    return `what it runs is not known: ${cause instanceof Error ? cause.message : String(cause)}`
  } finally {
    peer.close()
  }
}
