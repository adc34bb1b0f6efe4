/** What lives behind the gateway: a web page, files of any size, and a UDP echo. */
import { createHash } from "node:crypto"
import * as dgram from "node:dgram"
import * as http from "node:http"

const CHUNK = 64 * 1024

/** Bytes that no compression or cache can guess at, the same in every run. */
const chunkAt = (index: number): Buffer => {
  const chunk = Buffer.allocUnsafe(CHUNK)
  for (let offset = 0; offset < CHUNK; offset += 32) {
    createHash("sha256").update(`${index}:${offset}`).digest().copy(chunk, offset)
  }
  return chunk
}
// One megabyte that repeats: hashing 50 MB of fresh bytes would measure the server.
const CHUNKS = 16
const chunks: Array<Buffer> = []
const chunk = (index: number): Buffer => chunks[index % CHUNKS] ??= chunkAt(index % CHUNKS)

/** The SHA-256 of `/bytes/length`. */
export const expectedSha256 = (length: number): string => {
  const hash = createHash("sha256")
  for (let index = 0, left = length; left > 0; index++, left -= CHUNK) {
    hash.update(chunk(index).subarray(0, Math.min(left, CHUNK)))
  }
  return hash.digest("hex")
}

export const PAGE = "This page exists only behind the gateway."

export interface WebConfig {
  /** Where datagrams are echoed: an answer has to come from the address that was asked, so each has its own socket. */
  readonly echo: ReadonlyArray<string>
}

/** Serves `/` and `/bytes/N`, whole or a range of it (RFC 9110 section 14), on TCP port 80 of every address, and echoes UDP on port 7, until the process ends. */
export const serve = async ({ echo }: WebConfig): Promise<void> => {
  const server = http.createServer((request, response) => {
    const size = /^\/bytes\/(\d{1,12})$/.exec(request.url ?? "")?.[1]
    if (size === undefined) {
      response.setHeader("content-type", "text/plain")
      return response.end(`${PAGE}\nYou came from ${request.socket.remoteAddress ?? "nowhere"}.\n`)
    }
    const range = /^bytes=(\d{1,12})-(\d{1,12})$/.exec(request.headers.range ?? "")
    const end = range === null ? Number(size) : Math.min(Number(size), Number(range[2]) + 1)
    let position = Math.min(end, Number(range?.[1] ?? 0))
    if (range !== null) response.writeHead(206, { "content-range": `bytes ${range[1]}-${end - 1}/${size}` })
    else response.setHeader("content-length", end)
    const more = (): void => {
      while (position < end) {
        const from = position % CHUNK
        const part = chunk(Math.floor(position / CHUNK)).subarray(from, Math.min(CHUNK, from + end - position))
        position += part.length
        if (!response.write(part)) {
          response.once("drain", more)
          return
        }
      }
      response.end()
    }
    more()
  })
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(80, "::", () => resolve()))
  for (const address of echo) {
    const socket = dgram.createSocket(address.includes(":") ? "udp6" : "udp4")
    socket.on("message", (message, from) => socket.send(message, from.port, from.address))
    await new Promise<void>((resolve, reject) => socket.on("error", reject).bind(7, address, () => resolve()))
  }
}
