/** DNS messages in a stream of bytes: each behind its length, two bytes (RFC 1035 section 4.2.2). */
import type { TcpConnection } from "./TcpConnection.ts"

const PREFIX = 2
export const MAX_MESSAGE = 65_535
/** Of a DNS header. What is shorter is no message. */
export const MIN_MESSAGE = 12

/** The next message that has come in whole. */
export const takeMessage = (connection: TcpConnection): Uint8Array | undefined => {
  if (connection.readable < PREFIX) return undefined
  const end = PREFIX + (connection.at(0) << 8 | connection.at(1))
  return connection.readable < end ? undefined : connection.read(PREFIX, end)
}

/** `message` is at most `MAX_MESSAGE` long. One write, so that both parts go out together (RFC 7766 section 8). */
export const writeMessage = (connection: TcpConnection, message: Uint8Array): void => {
  const framed = new Uint8Array(PREFIX + message.length)
  framed[0] = message.length >> 8
  framed[1] = message.length & 0xff
  framed.set(message, PREFIX)
  connection.write(framed)
}
